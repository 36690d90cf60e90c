"""Scorers for your own tasks: whole text, substring, regular expression, choice letter.

scorer                      completion                reference   parsed    correct
exact_match                 " Paris\\n"                "Paris"     Paris     True
contains                    "It is Paris."            "Paris"     Paris     True
regex (pattern "is (\\w+)")   "It is Paris."            "Paris"     Paris     True
choice_letter               "The answer is (C)."      "C"         C         True
"""

import re

from lora_ns.benchmarks.scorers.result import Scored, Scorer
from lora_ns.errors import ConfigError

_LETTER = r"(?i:\s+is)?\s*:?\s*\**\s*\$?(?:\\boxed\{)?(?:(?i:option|choice)\s+)?\(?(?!I\s+[a-z])([A-Z])\)?(?![A-Za-z])"
_ANSWER = re.compile(r"(?i:answer)" + _LETTER)
_OPTION = re.compile(r"(?i:option|choice)" + _LETTER)
_LEADING_LETTER = re.compile(r"\s*\**(?:\(([A-Z])\)|([A-Z])(?=[.:),*]|\s*(?:\n|$)))")


def exact_match(completion: str, reference: str) -> Scored:
    """Whether completion and reference are equal, apart from surrounding white space."""
    parsed = completion.strip()
    return Scored(parsed, parsed == reference.strip())


def contains(completion: str, reference: str) -> Scored:
    """Whether the reference is a substring of the completion."""
    wanted = reference.strip()
    found = bool(wanted) and wanted in completion
    return Scored(wanted if found else None, found)


def regex(pattern: str, which: str = "last", ignore_case: bool = False) -> Scorer:
    """Return a scorer that compares a match of `pattern`: its first matched group, or the whole match without groups.

    which: "first" or "last" of several matches.  Raises ConfigError for a pattern that does not compile.
    """
    if not isinstance(pattern, str):
        raise ConfigError(f"pattern: expected text, found {pattern!r}; write it in quotes.")
    if which not in ("first", "last"):
        raise ConfigError(f"which: expected 'first' or 'last', got {which!r}.")
    try:
        compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise ConfigError(f"pattern: {pattern!r} is no regular expression: {error}.") from None

    def score(completion: str, reference: str) -> Scored:
        matches = list(compiled.finditer(completion))
        if not matches:
            return Scored(None, False)
        match = matches[0] if which == "first" else matches[-1]
        parsed = next((group for group in match.groups() if group is not None), match.group(0)).strip()
        wanted = reference.strip()
        return Scored(parsed, parsed.lower() == wanted.lower() if ignore_case else parsed == wanted)

    return score


def choice_letter(completion: str, reference: str) -> Scored:
    """Compare the last letter named as answer ("answer is (C)"), else the last named as option, else the leading letter.

    Answers come first because options are also named when they are wrong ("Answer: B. Option A is incorrect.").
    """
    stated = _ANSWER.findall(completion) or _OPTION.findall(completion)
    leading = _LEADING_LETTER.match(completion)
    parsed = stated[-1] if stated else (leading[1] or leading[2]) if leading else None
    return Scored(parsed, parsed is not None and parsed == reference.strip().strip("()").upper())
