"""Grade-school word problems in GSM8K's format, small enough for a model of a million parameters.

    question  Ben has 7 pears. Ben finds 5 more pears. How many pears does Ben have now?
    answer    Ben has 7+5=<<7+5=12>>12 pears.
              #### 12

An answer has one or two lines of reasoning with GSM8K's calculator annotations, then the number (Cobbe et al. 2021,
arXiv 2110.14168, section 3).
"""

import random

COLUMNS = ("question",)
"""Columns whose texts must be unique."""

NAMES = ("Anna", "Ben", "Cara", "Dan", "Ella", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kate", "Leo", "Mia", "Noah",
         "Olga", "Paul", "Rosa", "Sam", "Tina", "Will")  # fmt: skip
THINGS = ("apples", "pears", "plums", "books", "coins", "cards", "shells", "stones", "pens", "cups", "eggs", "hats",
          "keys", "nuts", "rings", "stamps", "toys", "balls", "beads", "cakes")  # fmt: skip
GAINS = ("finds", "buys", "gets", "picks up")
LOSSES = ("loses", "sells", "drops", "gives away")
HOLDERS = ("bags", "boxes", "baskets", "jars")
LARGEST_START = 9
LARGEST_CHANGE = 6
LARGEST_FACTOR = 5


def draw(rng: random.Random, index: int) -> dict[str, str]:
    """Return one problem: a change (half of them), two changes, a sum of two owners, or equal groups."""
    kind = rng.choice((_one_change, _one_change, _one_change, _two_changes, _two_owners, _equal_groups))
    return kind(rng)


def _change(rng: random.Random, have: int) -> tuple[str, str, int]:
    """Return (verb, sign, amount) of an event that leaves at least one thing."""
    if have < 2 or rng.random() < 0.5:
        return rng.choice(GAINS), "+", rng.randint(1, LARGEST_CHANGE)
    return rng.choice(LOSSES), "-", rng.randint(1, min(have - 1, LARGEST_CHANGE))


def _step(left: int, sign: str, right: int) -> tuple[str, int]:
    """Return a calculation such as `7+5=12`, and its value."""
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return f"{left}{sign}{right}={value}", value


def _one_change(rng: random.Random) -> dict[str, str]:
    name, thing, start = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, LARGEST_START)
    verb, sign, amount = _change(rng, start)
    step, value = _step(start, sign, amount)
    more = " more" if sign == "+" else ""
    return {
        "question": f"{name} has {start} {thing}. {name} {verb} {amount}{more} {thing}. How many {thing} does {name} have now?",
        "answer": f"{name} has {step} {thing}.\n#### {value}",
    }


def _two_changes(rng: random.Random) -> dict[str, str]:
    name, thing, start = rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, LARGEST_START)
    first_verb, first_sign, first = _change(rng, start)
    first_step, between = _step(start, first_sign, first)
    verb, sign, amount = _change(rng, between)
    step, value = _step(between, sign, amount)
    return {
        "question": f"{name} has {start} {thing}. First {name} {first_verb} {first}. Then {name} {verb} {amount}. "
        f"How many {thing} does {name} have at the end?",
        "answer": f"First {name} has {first_step} {thing}.\nThen {name} has {step} {thing}.\n#### {value}",
    }


def _two_owners(rng: random.Random) -> dict[str, str]:
    (name, other), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    left, right = rng.randint(2, LARGEST_START), rng.randint(1, LARGEST_CHANGE)
    step, value = _step(left, "+", right)
    return {
        "question": f"{name} has {left} {thing} and {other} has {right} {thing}. "
        f"How many {thing} do {name} and {other} have together?",
        "answer": f"Together they have {step} {thing}.\n#### {value}",
    }


def _equal_groups(rng: random.Random) -> dict[str, str]:
    name, thing, holder = rng.choice(NAMES), rng.choice(THINGS), rng.choice(HOLDERS)
    groups, size = rng.randint(2, LARGEST_FACTOR), rng.randint(2, LARGEST_FACTOR)
    step, value = _step(groups, "*", size)
    return {
        "question": f"{name} fills {groups} {holder} with {size} {thing} in each. How many {thing} are there?",
        "answer": f"There are {step} {thing}.\n#### {value}",
    }
