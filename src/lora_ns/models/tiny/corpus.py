"""Pretraining texts of the builtin base models.

The texts share words, arithmetic, Python and synonyms with the tasks, but not their format.  They have no `####`, no
`Question:` or `Instruction:`, other sentences for the same events, and some other words for the same code.  So fine-tuning
has to learn a task's prompt and answer format.
"""

import random
from collections.abc import Iterator

from lora_ns.data.sources import paraphrase, python_functions, word_problems


def pages(seed: int) -> Iterator[str]:
    """Yield endless documents for the causal model: pages of worked problems, of functions, and of sums."""
    rng = random.Random(f"pages/{seed}")
    while True:
        yield rng.choices((_story_page, _code_page, _sums), weights=(5, 3, 2))[0](rng)


def briefs(seed: int) -> Iterator[tuple[str, str, int]]:
    """Yield endless (text, next text, 1 if both report the same event) for the encoder."""
    rng = random.Random(f"briefs/{seed}")
    while True:
        event = _event(rng)
        follows = rng.random() < 0.5
        second = event if follows else _another(rng, event)
        yield _brief(rng, event), _brief(rng, second), int(follows)


# ---- pages -----------------------------------------------------------------------------------------------------------
# Each page has one style throughout, so the model learns to take the style from the context.  A trained prefix or prompt
# can use this.

LABELS = ("Story", "Case", "Item", "Note", "Given", "Facts", "Page", "Part", "Task", "Text", "Work", "Try", "Think",
          "Total", "Result", "Reply", "End", "Value", "Out", "Then", "So", "Now")  # fmt: skip
SIGNS = ("==", "**", "##", "=>", "->", "--", "%%", "~~", "++")
MARKS = tuple(left + right for left in SIGNS for right in ("",) * 9 + SIGNS if left + right != "####")
"""Marks before a result: half of them single, half of them double."""

RECKONINGS = ("{step}.", "that is {step}.", "{who} {has} {step} {thing}.", "it comes to {step} {thing}.",
              "there are {step} {thing}.", "{who} {has} {step}.")  # fmt: skip


def _labels(rng: random.Random) -> tuple[str, str]:
    """Return two labels with punctuation, such as `Case:` and `Result:`.  The second may be empty."""
    first, second = rng.sample(LABELS, 2)
    stop = rng.choice((":", ":", ".", " -", " >"))
    return f"{first}{stop}", rng.choice((f"{second}{stop}", f"{second}{stop}", ""))


def _story_page(rng: random.Random) -> str:
    """Return two or three worked problems: story, calculation, and the result after a mark."""
    first, second = _labels(rng)
    mark = rng.choice(MARKS)
    joint = rng.choice(("\n", "\n", " "))
    sentence = rng.choice(RECKONINGS)
    openings = rng.choice((("", ""), ("First ", "Then "), ("At first ", "Now ")))
    asked = rng.random() < 0.5
    items = []
    for _ in range(rng.randint(2, 3)):
        story, question, who, thing, steps, value = rng.choice((_changes, _changes, _owners, _groups))(rng)
        text = f"{story} {question}" if asked else story
        starts = openings if len(steps) > 1 else ("",)
        has = "have" if who.endswith("they") else "has"
        reckoned = " ".join(
            _capital(start + sentence.format(who=who, has=has, step=step, thing=thing))
            for start, step in zip(starts, steps, strict=True)
        )
        items.append("".join((first, " ", text, joint, second, " " * bool(second), reckoned, joint, mark, f" {value}")))
    return "\n\n".join(items)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


Worked = tuple[str, str, str, str, list[str], int]
"""(story, question, owner, things, calculations, result)."""


def _changes(rng: random.Random) -> Worked:
    name, thing, have = rng.choice(word_problems.NAMES), rng.choice(word_problems.THINGS), rng.randint(2, 9)
    openings = rng.choice((("", ""), ("", "Later "), ("Today ", "Then "), ("First ", "Next ")))
    story, steps = [f"{name} has {have} {thing}."], []
    for opening in openings[: rng.randint(1, 2)]:
        if have < 2 or rng.random() < 0.5:
            verb, sign, amount = rng.choice(word_problems.GAINS), "+", rng.randint(1, 6)
        else:
            verb, sign, amount = rng.choice(word_problems.LOSSES), "-", rng.randint(1, min(6, have - 1))
        more = rng.choice(("", " more")) if sign == "+" else ""
        story.append(f"{opening}{name} {verb} {amount}{more}{rng.choice(('', ' ' + thing))}.")
        step, have = _step(have, sign, amount)
        steps.append(step)
    when = rng.choice(("", " now", " in the end", " today"))
    return " ".join(story), f"How many {thing} does {name} have{when}?", name, thing, steps, have


def _owners(rng: random.Random) -> Worked:
    (name, other), thing = rng.sample(word_problems.NAMES, 2), rng.choice(word_problems.THINGS)
    left, right = rng.randint(2, 9), rng.randint(1, 6)
    step, value = _step(left, "+", right)
    story = f"{name} has {left} {thing}{rng.choice(('.', ' and', ','))} {other} has {right} {thing}."
    question = f"How many {rng.choice(('', thing + ' '))}do {name} and {other} have?"
    return story, question, rng.choice(("Together they", "they")), thing, [step], value


def _groups(rng: random.Random) -> Worked:
    name, thing = rng.choice(word_problems.NAMES), rng.choice(word_problems.THINGS)
    holder = rng.choice(word_problems.HOLDERS)
    groups, size = rng.randint(2, 5), rng.randint(2, 5)
    step, value = _step(groups, "*", size)
    story = rng.choice(
        (
            f"{name} has {groups} {holder} of {size} {thing}.",
            f"{name} fills {groups} {holder} with {size} {thing}.",
            f"There are {groups} {holder} with {size} {thing} in each.",
        )
    )
    return story, f"How many {thing} are there?", name, thing, [step], value


def _step(left: int, sign: str, right: int) -> tuple[str, int]:
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return f"{left}{sign}{right}={value}", value


def _sums(rng: random.Random) -> str:
    """Return a page of sums, in digits or in words."""
    write = rng.choice((_sum_in_figures, _sum_in_figures, _sum_in_words))
    return rng.choice(("\n", ", ", ". ")).join(write(rng) for _ in range(rng.randint(6, 10)))


def _sum_in_figures(rng: random.Random) -> str:
    sign = rng.choice("++--*")
    left, right = rng.randint(2, rng.choice((9, 20))), rng.randint(1, 6)
    if sign == "*":
        left, right = rng.randint(2, 5), rng.randint(2, 5)
    return _step(max(left, right), sign, min(left, right))[0]


def _sum_in_words(rng: random.Random) -> str:
    small, large = sorted(rng.sample(range(1, 10), 2))
    form, value = rng.choice(
        (
            ("the sum of {large} and {small} is {value}", large + small),
            ("the difference of {large} and {small} is {value}", large - small),
            ("the remainder of {large} by {small} is {value}", large % small),
            ("{large} is greater than {small}", 0),
            ("{small} is less than {large}", 0),
            ("{large} is equal to {large}", 0),
            ("the larger of {small} and {large} is {large}", 0),
        )
    )
    return form.format(small=small, large=large, value=value)


def _function_name(rng: random.Random) -> str:
    return f"{rng.choice(python_functions.NAME_VERBS)}_{rng.choice(python_functions.NAME_NOUNS)}"


OTHER_WORDS = {
    "the remainder of x by {k}": "what is left of x by {k}",
    "whether x is greater than {k}": "is x above {k}",
    "whether x is less than {k}": "is x below {k}",
    "the sum of x and y": "x plus y",
    "the difference of x and y": "x minus y",
    "the product of x and y": "x times y",
    "whether x is equal to y": "is x the same as y",
    "the sum of items": "the total of items",
    "the number of items": "how many items",
    "each of items plus {k}": "items, each plus {k}",
    "each of items times {k}": "items, each times {k}",
    "the number of letters in text": "how many letters in text",
}
"""The task's words for a function's result -> other words for these pages."""

WISHES = (
    "{name} gives {words}",
    "{name}: {words}",
    "make {name}, that is {words}",
    "{words}, as {name}",
    "call it {name}; it gives {words}",
    "we need {words} from {name} here",
    "with {signature}, {name} gives {words}",
    "{who} wants {name} to give {words}",
    "use {name} for {words}",
    "a function of {signature} named {name} gives {words}",
)


def _code_page(rng: random.Random) -> str:
    """Return two or three functions, each after its description."""
    first, second = _labels(rng)
    asked = rng.choice(WISHES)
    joint = rng.choice(("\n", "\n", "\n\n"))
    items = []
    for _ in range(rng.randint(2, 3)):
        signature = rng.choice(tuple(python_functions.BEHAVIOURS))
        words, expression = rng.choice(python_functions.BEHAVIOURS[signature])
        constant = rng.randint(2, 9)
        words, expression = OTHER_WORDS.get(words, words).format(k=constant), expression.format(k=constant)
        name = _function_name(rng)
        code = f"def {name}({signature}):\n    return {expression}"
        who = rng.choice(word_problems.NAMES)
        said = f"{first} {asked.format(name=name, words=words, signature=signature, who=who)}.{joint}"
        items.append(f"{said}{second}{joint}{code}" if second else f"{said}{code}")
    return "\n\n".join(items)


# ---- briefs ----------------------------------------------------------------------------------------------------------

SHARED = 0.3
"""Probability that a non-following event shares a given part with the first event."""

BRIEFS = (
    "Reports from {place}: the {agent} {verb} a {object}, {day}.",
    "News of {day}: in {place}, a {agent} {verb} a {object}.",
    "A {object} was {participle} in {place}, {day}, says the {agent}.",
    "{day} in {place}: a {agent} has {participle} a {object}.",
    "{place}, {day}: the {object} that the {agent} {verb}.",
)


def _event(rng: random.Random) -> dict[str, int]:
    return {part: rng.randrange(len(meanings)) for part, meanings in paraphrase.PARTS.items()}


def _another(rng: random.Random, event: dict[str, int]) -> dict[str, int]:
    """Return another event that shares some parts."""
    other = _event(rng)
    return {part: (event if rng.random() < SHARED else other)[part] for part in event}


def _brief(rng: random.Random, event: dict[str, int]) -> str:
    words = {part: rng.choice(paraphrase.PARTS[part][meaning]) for part, meaning in event.items()}
    participle = paraphrase.PARTICIPLES.get(words["verb"], words["verb"])
    return rng.choice(BRIEFS).format(participle=participle, **words)
