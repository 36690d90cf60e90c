r"""Answers compared as mathematics, by the library math-verify.

    completion                    math_verify, reference 0.5
    "The answer is: 1/2"          right
    "so \boxed{\frac{1}{2}}"      right
    "The answer is: 0.51"         wrong
    "#### 50%"                    right: a percentage may be read as its share

A reference is a GSM8K answer ("… #### 18"), a solution with `\boxed{…}`, or the bare answer, which is read as LaTeX.
math-verify bounds its work by `signal.alarm`, which only the main thread may set.

Source: huggingface/Math-Verify 0.9.0.
"""

import threading
from functools import lru_cache
from typing import Any

from lora_ns.benchmarks.scorers.hendrycks import boxed_answer
from lora_ns.benchmarks.scorers.result import Scored
from lora_ns.errors import DataError, EvaluationError


def math_verify(completion: str, reference: str) -> Scored:
    """The library's verdict, with its own settings and time limits (5 s a step; a step that takes longer is wrong)."""
    from math_verify import parse, verify  # loads sympy: 0.4 s that only users of this scorer pay

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
