"""Scorers by name: each compares a completion with a reference.

    >>> scorer("gsm8k_flexible")("She earns 9 * 2 = $18.", "18")
    Scored(parsed='18', correct=True)
    >>> scorer("regex", pattern=r"is (\\w+)")("It is Paris.", "Paris")
    Scored(parsed='Paris', correct=True)

A scorer takes one completion and one reference, both text.  The modules' docstrings show where scorers of the same task
differ.
"""

import difflib
from typing import Any

from lora_ns.benchmarks.scorers.gsm8k import gsm8k_flexible, gsm8k_official, gsm8k_strict
from lora_ns.benchmarks.scorers.hendrycks import hendrycks_math
from lora_ns.benchmarks.scorers.math_verify import math_verify
from lora_ns.benchmarks.scorers.metamath import metamath, metamath_math
from lora_ns.benchmarks.scorers.peft_suite import peft_suite
from lora_ns.benchmarks.scorers.result import Scored, Scorer, as_reference
from lora_ns.benchmarks.scorers.text_match import choice_letter, contains, exact_match, regex
from lora_ns.errors import ConfigError

SCORERS: dict[str, Scorer] = {
    "choice_letter": choice_letter,
    "contains": contains,
    "exact_match": exact_match,
    "gsm8k_flexible": gsm8k_flexible,
    "gsm8k_official": gsm8k_official,
    "gsm8k_strict": gsm8k_strict,
    "hendrycks_math": hendrycks_math,
    "math_verify": math_verify,
    "metamath": metamath,
    "metamath_math": metamath_math,
    "peft_suite": peft_suite,
}
"""The scorers without options. `scorer("regex", pattern=…)` makes the one with options."""


def scorer(name: str, **options: Any) -> Scorer:
    """Return the scorer of that name.  options: for `regex` only (`pattern`, `which`, `ignore_case`).

    Raises ConfigError with the nearest known scorer, or the missing or unknown option.
    """
    if name == "regex":
        unknown = sorted(set(options) - {"pattern", "which", "ignore_case"})
        if unknown or "pattern" not in options:
            fault = f"does not know {', '.join(unknown)}" if unknown else "needs `pattern`"
            raise ConfigError(f"the scorer regex {fault}; its options are pattern, which and ignore_case.")
        return regex(**options)
    if name not in SCORERS:
        known = sorted([*SCORERS, "regex"])
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no scorer {name!r}.{hint} Known: {', '.join(known)}.")
    if options:
        raise ConfigError(f"the scorer {name} takes no options, got {', '.join(sorted(options))}.")
    return SCORERS[name]
