"""The scorer of Hugging Face PEFT's method comparison on MetaMathQA.

    completion                          parsed    reference 18
    "... The answer is: $18.00"         18.00     right: numbers are compared, not strings
    "The answer is 18 apples."          18 apples wrong: not a number, and not the reference's text
    "#### 7\\n#### 18"                   18        right: the last occurrence of a delimiter counts
    "The answer is: 7\\n#### 18"         7         wrong: the first delimiter in `_DELIMITERS` that occurs counts
    "\\boxed{18}"                        none      wrong: no delimiter
    "#### 1,234" (reference 1234)       1,234     wrong: a comma makes it text

The answer is the text after the delimiter to the end of its line, without surrounding ` .!?$%`.  Both answers are
read as decimals or as fractions `a/b` and compared as floats.  If an answer is no number, it is compared as text.

Source: huggingface/peft, `method_comparison/MetaMathQA/utils.py` (2025–2026).
"""

from decimal import Decimal, DivisionByZero, InvalidOperation

from lora_ns.benchmarks.scorers.result import Scored

_DELIMITERS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")


def peft_suite(completion: str, reference: str) -> Scored:
    """Compare the answers as PEFT's suite does. A reference without a delimiter is the bare answer."""
    parsed = _answer(completion)
    if parsed is None:
        return Scored(None, False)
    expected = _answer(reference)
    return Scored(parsed, _value(parsed) == _value(reference.strip() if expected is None else expected))


def _answer(text: str) -> str | None:
    text = text.strip().rstrip(".!?")
    delimiter = next((one for one in _DELIMITERS if one in text), None)
    if delimiter is None:
        return None
    return text.rpartition(delimiter)[2].strip().split("\n", 1)[0].strip(" .!?$%")


def _value(answer: str) -> float | str:
    """Return the answer as a number, or unchanged if it is none."""
    parts = [part.strip() for part in answer.split("/")]
    try:
        numbers = [Decimal(part) for part in parts]
        if len(numbers) > 2:
            return answer
        return float(numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0])
    except (DivisionByZero, InvalidOperation, ValueError, OverflowError):
        return answer
