"""Short Python functions from instructions, with tests as in MBPP (Austin et al. 2021, arXiv 2108.07732).

    instruction  Write a function find_value that takes x and returns x plus 3.
    output       def find_value(x):
                     return x + 3
    test_list    ["assert find_value(2) == 5", …]

The expected values are computed by the function.  The tests of a row fail for every other function of the same signature.
Every assert has the form `call(literals) == literal`.
"""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

COLUMNS = ("instruction",)
TESTS_PER_ROW = 3

NAME_VERBS = ("find", "get", "make", "take", "build", "give", "show", "form", "solve", "work", "fetch", "check")
NAME_NOUNS = ("value", "result", "answer", "item", "part", "thing", "output", "case", "piece", "data", "task", "entry")
WORDS = ("red", "tree", "house", "garden", "morning", "mountain", "butterfly", "strawberry", "grasshopper", "thunderstorm")
SMALLEST_CONSTANT = 2
LARGEST_CONSTANT = 9

BEHAVIOURS: dict[str, tuple[tuple[str, str], ...]] = {
    "x": (
        ("x plus {k}", "x + {k}"),
        ("x minus {k}", "x - {k}"),
        ("x times {k}", "x * {k}"),
        ("the remainder of x by {k}", "x % {k}"),
        ("whether x is greater than {k}", "x > {k}"),
        ("whether x is less than {k}", "x < {k}"),
        ("the larger of x and {k}", "max(x, {k})"),
        ("the smaller of x and {k}", "min(x, {k})"),
    ),
    "x, y": (
        ("the sum of x and y", "x + y"),
        ("the difference of x and y", "x - y"),
        ("the product of x and y", "x * y"),
        ("the larger of x and y", "max(x, y)"),
        ("the smaller of x and y", "min(x, y)"),
        ("whether x is equal to y", "x == y"),
    ),
    "items": (
        ("the sum of items", "sum(items)"),
        ("the number of items", "len(items)"),
        ("the largest of items", "max(items)"),
        ("the smallest of items", "min(items)"),
        ("items in sorted order", "sorted(items)"),
        ("items in reverse order", "items[::-1]"),
        ("the first {k} of items", "items[:{k}]"),
        ("each of items plus {k}", "[i + {k} for i in items]"),
        ("each of items times {k}", "[i * {k} for i in items]"),
    ),
    "text": (
        ("text in upper case", "text.upper()"),
        ("text in reverse order", "text[::-1]"),
        ("the number of letters in text", "len(text)"),
        ("text repeated {k} times", "text * {k}"),
        ("the first {k} letters of text", "text[:{k}]"),
    ),
}
"""Signature -> (the result in words, the expression); {k} is a constant."""


def draw(rng: random.Random, index: int) -> dict[str, Any]:
    """Return one row: instruction, function, and tests that it passes."""
    signature = rng.choice(tuple(BEHAVIOURS))
    words, expression = rng.choice(BEHAVIOURS[signature])
    constant = rng.randint(SMALLEST_CONSTANT, LARGEST_CONSTANT)
    words, expression = words.format(k=constant), expression.format(k=constant)
    name = f"{rng.choice(NAME_VERBS)}_{rng.choice(NAME_NOUNS)}"
    takes = signature.replace(", ", " and ")
    output = f"def {name}({signature}):\n    return {expression}"
    return {
        "instruction": f"Write a function {name} that takes {takes} and returns {words}.",
        "output": output,
        "entry_point": name,
        "test_list": _tests(rng, name, signature, expression, constant),
    }


def _tests(rng: random.Random, name: str, signature: str, expression: str, constant: int) -> list[str]:
    """Return asserts that only this function passes, among all functions of the signature with all constants."""
    functions = _functions(signature)
    others = [function for text, function in functions.items() if text != expression]
    while True:
        calls = [_arguments(rng, signature, constant) for _ in range(TESTS_PER_ROW)]
        expected = [functions[expression](*arguments) for arguments in calls]
        varied = len(set(map(repr, expected))) > 1 and len(set(map(repr, calls))) == TESTS_PER_ROW
        if varied and all(_differs(other, calls, expected) for other in others):
            break
    return [
        f"assert {name}({', '.join(map(repr, arguments))}) == {value!r}" for arguments, value in zip(calls, expected, strict=True)
    ]


def _differs(function: Callable[..., Any], calls: list[list[Any]], expected: list[Any]) -> bool:
    return any(function(*arguments) != value for arguments, value in zip(calls, expected, strict=True))


@cache
def _functions(signature: str) -> dict[str, Callable[..., Any]]:
    """Return expression -> function, for all behaviours of a signature with all constants."""
    constants = range(SMALLEST_CONSTANT, LARGEST_CONSTANT + 1)
    expressions = (form.format(k=k) for _, form in BEHAVIOURS[signature] for k in constants)
    return {expression: eval(f"lambda {signature}: {expression}") for expression in expressions}


def _arguments(rng: random.Random, signature: str, constant: int) -> list[Any]:
    if signature == "text":
        return [rng.choice(WORDS)]
    if signature == "items":
        return [[rng.randint(0, 20) for _ in range(rng.randint(3, LARGEST_CONSTANT + 2))]]
    near = range(constant - 1, constant + 2)
    return [rng.choice((rng.randint(0, 20), rng.choice(near))) for _ in signature.split(", ")]
