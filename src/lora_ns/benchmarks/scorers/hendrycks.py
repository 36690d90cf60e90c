r"""Scorer of the MATH paper: compares the last `\boxed{…}` as text after a light clean-up.

    completion                    reference        hendrycks_math
    "so \boxed{\dfrac12}"         \frac{1}{2}      right: \dfrac12 becomes \frac{1}{2}
    "so \boxed{0.5}"              \frac{1}{2}      right: 0.5 alone is known to be 1/2
    "so \boxed{0.25}"             \frac{1}{4}      wrong: no other decimal is
    "so \boxed{10{,}000}"         10000            wrong: commas stay

The clean-up, in order: line breaks, `\!`, doubled backslashes, `tfrac`/`dfrac`, `\left`/`\right`, degrees, `\$`, text
after `\text{ ` (a unit), `\%`; a leading zero; a left side `x =` of at most two characters; braces for `\sqrt3`;
spaces; braces for `\frac12`; `0.5` and integer `a/b` as `\frac`.  If a step finds no operand, both texts are compared
without clean-up.

Source: Hendrycks et al. 2021 (arXiv 2103.03874); hendrycks/math, `modeling/math_equivalence.py`.
"""

import re

from lora_ns.benchmarks.scorers.result import Scored

_INTEGER_RATIO = re.compile(r"(0|-?[1-9][0-9]*)/(0|-?[1-9][0-9]*)")
_BEFORE_UNITS = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
_AFTER_UNITS = (("\\%", ""), ("\\%", ""), (" .", " 0."), ("{.", "{0."))  # the original removes `\%` twice
_UNIT = "\\text{ "


class _NoOperand(Exception):
    """A LaTeX command in the text has no operand."""


def hendrycks_math(completion: str, reference: str) -> Scored:
    r"""Compare the last `\boxed{…}` of the completion with that of the reference, or with the whole reference."""
    parsed = boxed_answer(completion)
    if parsed is None:
        return Scored(None, False)
    expected = boxed_answer(reference)
    return Scored(parsed, is_equiv(parsed, reference if expected is None else expected))


def boxed_answer(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}`; None if there is none, or its brace is never closed.

    `\boxed 5`, found in some MATH solutions, is read up to the next `$`, as in lm-evaluation-harness.
    """
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :]
    if rest.startswith(" "):
        return rest[1:].split("$", 1)[0]
    if not rest.startswith("{"):
        return None
    depth = 0
    for position, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:position]
    return None


def is_equiv(left: str, right: str) -> bool:
    """Whether two answers are the same text after the clean-up described in the module's docstring."""
    try:
        return cleaned(left) == cleaned(right)
    except _NoOperand:
        return left == right


def cleaned(answer: str) -> str:
    r"""Return the cleaned answer, such as `\frac{1}{2}` for ` 1/2`."""
    answer = _without_unit(_replaced(answer, _BEFORE_UNITS))
    answer = _replaced(answer, _AFTER_UNITS)
    if answer.startswith("."):
        answer = "0" + answer
    left, equals, right = answer.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        answer = right
    answer = _with_braced_fractions(_with_braced_roots(answer).replace(" ", ""))
    if answer == "0.5":
        return "\\frac{1}{2}"
    ratio = _INTEGER_RATIO.fullmatch(answer)
    return f"\\frac{{{ratio[1]}}}{{{ratio[2]}}}" if ratio else answer


def _replaced(text: str, replacements: tuple[tuple[str, str], ...]) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return text


def _without_unit(answer: str) -> str:
    number, *units = answer.split(_UNIT)
    if len(units) > 1:
        raise _NoOperand("two units")
    return number


def _with_braced_roots(answer: str) -> str:
    head, *operands = answer.split("\\sqrt")
    return head + "".join("\\sqrt" + _with_braced_first(operand) for operand in operands)


def _with_braced_fractions(answer: str) -> str:
    r"""Add braces: `\frac12` -> `\frac{1}{2}`, `\frac1{72}` -> `\frac{1}{72}`; `\frac{72}1` stays, as in the original."""
    head, *operands = answer.split("\\frac")
    braced = head
    for operand in operands:
        if len(operand) == 1 and operand != "{":
            return answer  # no denominator: the original leaves the whole text unchanged
        numerator = _with_braced_first(operand[:1])
        rest = operand[1:] if operand[0] == "{" else _with_braced_first(operand[1:])
        braced += "\\frac" + numerator + rest
    return braced


def _with_braced_first(operand: str) -> str:
    if not operand:
        raise _NoOperand("nothing follows the command")
    return operand if operand[0] == "{" else "{" + operand[0] + "}" + operand[1:]
