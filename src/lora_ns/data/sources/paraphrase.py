"""Sentence pairs with the same or a different meaning, in MRPC's format.

    sentence1  The firm bought the house in Boston on Monday.
    sentence2  On Monday, the home in Boston was purchased by the company.
    label      1 (equivalent)

The sentences of an equivalent pair describe one event with other words and word order.  In other pairs one or two parts
of the event differ.  Columns and label names are those of MRPC in GLUE (Dolan and Brockett 2005).
"""

import random
from collections.abc import Sequence
from typing import Any

COLUMNS = ("sentence1", "sentence2")

Event = dict[str, int]
"""Part of the event -> index of its meaning."""

PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "agent": (("company", "firm"), ("doctor", "physician"), ("lawyer", "attorney"), ("writer", "author"),
              ("child", "kid"), ("teacher", "instructor")),
    "verb": (("bought", "purchased"), ("built", "constructed"), ("fixed", "repaired"), ("found", "discovered"),
             ("wrecked", "destroyed"), ("hid", "concealed")),
    "object": (("car", "automobile"), ("house", "home"), ("shop", "store"), ("boat", "ship"), ("sofa", "couch"),
               ("bike", "bicycle")),
    "place": (("Boston",), ("Paris",), ("Rome",), ("Cairo",), ("Lima",), ("Oslo",)),
    "day": (("Monday",), ("Tuesday",), ("Wednesday",), ("Thursday",), ("Friday",), ("Saturday",)),
}  # fmt: skip
"""Part -> its meanings, each as a tuple of synonyms."""

PARTICIPLES = {"hid": "hidden"}
"""Past tense -> participle, if they differ."""

ORDERS = (
    "The {agent} {verb} the {object} in {place} on {day}.",
    "On {day}, the {agent} {verb} the {object} in {place}.",
    "The {object} in {place} was {participle} by the {agent} on {day}.",
    "On {day}, the {object} in {place} was {participle} by the {agent}.",
)


def draw(rng: random.Random, index: int) -> dict[str, Any]:
    """Return one pair.  Odd rows are equivalent, even rows are not."""
    label = index % 2
    event = {part: rng.randrange(len(meanings)) for part, meanings in PARTS.items()}
    other = dict(event) if label else _changed(rng, event)
    first_order, second_order = rng.sample(ORDERS, 2)
    return {
        "sentence1": _sentence(rng, event, first_order),
        "sentence2": _sentence(rng, other, second_order),
        "label": label,
        "idx": index,
    }


def _changed(rng: random.Random, event: Event) -> Event:
    """Return the event with one or two parts changed."""
    changed = dict(event)
    for part in rng.sample(tuple(PARTS), rng.randint(1, 2)):
        others = [meaning for meaning in range(len(PARTS[part])) if meaning != event[part]]
        changed[part] = rng.choice(others)
    return changed


def _sentence(rng: random.Random, event: Event, order: str) -> str:
    words = {part: _word(rng, PARTS[part][meaning]) for part, meaning in event.items()}
    return order.format(participle=PARTICIPLES.get(words["verb"], words["verb"]), **words)


def _word(rng: random.Random, words: Sequence[str]) -> str:
    return rng.choice(words)
