"""MetaMath's own scorers: they compare the text after the last `The answer is: `.

    completion                          metamath (GSM8K)      metamath_math (MATH)
    "The answer is: 18"                 18                    18
    "The answer is: 18.4"               18: rounded           18.4
    "The answer is: 1,234,567"          1234: one separator   1,234,567
    "The answer is: \\frac{1}{2}. So"    1                     \\frac{1}{2}. So
    "The answer is: 18.\\nSo"            18                    18
    "#### 18"                           none                  none

Source: meta-math/MetaMath, `eval_gsm8k.py` and `eval_math.py` (Yu et al. 2023, arXiv 2309.12284).
"""

import re
from fractions import Fraction

from lora_ns.benchmarks.scorers.hendrycks import boxed_answer, is_equiv
from lora_ns.benchmarks.scorers.result import Scored
from lora_ns.errors import DataError

_DELIMITER = "The answer is: "
_NUMBER = re.compile(r"[\-+]?\d*[\.,/]?\d+")


def metamath(completion: str, reference: str) -> Scored:
    """Compare the first number after the last delimiter, rounded half to even, to a GSM8K reference."""
    expected = reference.rsplit("#### ", 1)[-1].strip().replace(",", "")
    try:
        gold = float(expected)
    except ValueError:
        raise DataError(f"the reference {reference!r} does not end in a number.") from None
    number = _rounded_number(completion)
    return Scored(None if number is None else str(number), number is not None and float(number) == gold)


def _rounded_number(completion: str) -> int | None:
    answer = _after_delimiter(completion)
    found = _NUMBER.search(answer) if answer is not None else None
    if found is None:
        return None
    numerator, slash, denominator = found.group(0).replace(",", "").partition("/")
    try:
        if slash and denominator != "0":
            return round(float(Fraction(f"{numerator}/{denominator}")))
        return round(float(numerator))
    except (ValueError, OverflowError, ZeroDivisionError):
        return None  # "/5" has no numerator; a float of 400 digits is infinite


def metamath_math(completion: str, reference: str) -> Scored:
    """Compare the text between the last delimiter and the first `.` at a line end by Hendrycks' `is_equiv` (for MATH).

    reference: a solution with `\\boxed{answer}`, or the bare answer.
    """
    answer = _after_delimiter(completion)
    if answer is None:
        return Scored(None, False)
    parsed = answer.split(".\n")[0].strip().removesuffix(".").strip()
    return Scored(parsed, is_equiv(parsed, boxed_answer(reference) or reference))


def _after_delimiter(completion: str) -> str | None:
    _, delimiter, answer = completion.rpartition(_DELIMITER)
    return answer if delimiter else None
