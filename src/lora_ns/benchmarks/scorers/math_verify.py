r"""Scorer by mathematical equality, using the library math-verify.

    completion                    math_verify, reference 0.5
    "The answer is: 1/2"          right
    "so \boxed{\frac{1}{2}}"      right
    "The answer is: 0.51"         wrong
    "#### 50%"                    right: a percentage may be read as its share

A reference is a GSM8K answer ("… #### 18"), a solution with `\boxed{…}`, or the bare answer in LaTeX.
math-verify limits its run time by `signal.alarm`, which only the main thread may set.

Source: huggingface/Math-Verify 0.9.0.
"""

import threading
from functools import lru_cache
from typing import Any

from lora_ns.benchmarks.scorers.hendrycks import boxed_answer
from lora_ns.benchmarks.scorers.result import Scored
from lora_ns.errors import DataError, EvaluationError


def math_verify(completion: str, reference: str) -> Scored:
    """Compare by math-verify's defaults, with its time limit (5 s per step; a longer step counts as wrong)."""
    from math_verify import parse, verify  # imported here, since loading sympy takes 0.4 s

    if threading.current_thread() is not threading.main_thread():
        raise EvaluationError("math_verify scores in the main thread only: its time limit is an alarm signal.")
    answers = parse(completion)
    return Scored(str(answers[-1]) if answers else None, bool(verify(list(_gold(reference)), answers)))


@lru_cache(maxsize=8192)
def _gold(reference: str) -> tuple[Any, ...]:
    from math_verify import parse

    answer = boxed_answer(reference) or reference.rsplit("#### ", 1)[-1].strip()
    gold = tuple(parse(f"${answer}$"))
    if not gold:
        raise DataError(f"math-verify reads no answer from the reference {reference!r}.")
    return gold
