"""GSM8K scorers: OpenAI's own and the two of lm-evaluation-harness.

    completion                    gsm8k_official   gsm8k_strict   gsm8k_flexible     (reference 18)
    "... so\\n#### 18"             18 right         18 right       18 right
    "... so\\n#### 18."            18. wrong        18 right       18 right
    "The answer is: $18"          none             none           18 right
    "#### 18 ... #### 99"         18 right         18 right       99 wrong
    "#### 18\\nQuestion: ... 99"   18 right         18 right       18 right

A reference is a whole GSM8K answer ("... #### 18") or the bare number.  lm-eval's task stops generation at `Question:`,
`</s>` and `<|im_end|>`, so its two scorers read a completion only up to the first of these.

Sources: openai/grade-school-math, `grade_school_math/dataset.py` (official); EleutherAI/lm-evaluation-harness 0.4.13,
`tasks/gsm8k/gsm8k.yaml`, version 3.0 (strict, flexible).
"""

import re

from lora_ns.benchmarks.scorers.result import Scored
from lora_ns.errors import DataError

_FINAL_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")
_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_STOPS = ("Question:", "</s>", "<|im_end|>")
_IGNORED = (re.compile(r","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))


def gsm8k_official(completion: str, reference: str) -> Scored:
    """Compare the first `#### n`, without commas, to the reference's as strings.  Raises DataError for a bad reference."""
    expected = _official_answer(reference) if "####" in reference else reference.strip().replace(",", "")
    if not expected:
        raise DataError(f"the reference {reference!r} holds no GSM8K answer (`#### n`, or a bare number).")
    parsed = _official_answer(completion)
    return Scored(parsed, parsed == expected)


def _official_answer(text: str) -> str | None:
    found = _FINAL_ANSWER.search(text)
    return found.group(1).replace(",", "") if found else None


def gsm8k_strict(completion: str, reference: str) -> Scored:
    """Compare the first `#### n` by lm-eval's exact match (lm-eval: `strict-match`)."""
    found = _FINAL_ANSWER.search(_until_stop(completion))
    return _exact_match(found.group(1) if found else None, reference)


def gsm8k_flexible(completion: str, reference: str) -> Scored:
    """Compare the last number-like text by lm-eval's exact match (lm-eval: `flexible-extract`)."""
    numbers = [found.group(0) for found in _NUMBER.finditer(_until_stop(completion))]
    return _exact_match(numbers[-1] if numbers else None, reference)


def _until_stop(completion: str) -> str:
    for stop in _STOPS:
        completion = completion.partition(stop)[0]
    return completion


def _exact_match(answer: str | None, reference: str) -> Scored:
    """Compare by lm-eval's exact match: `_IGNORED` patterns are removed from both sides, in order, and case is ignored."""
    if answer is None:
        return Scored(None, False)
    parsed = _without_ignored(answer)
    return Scored(parsed, parsed == _without_ignored(reference))


def _without_ignored(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()
