"""The table of scorers, and those for tasks of one's own."""

import pytest

from lora_ns.benchmarks.scorers import SCORERS, scorer
from lora_ns.errors import ConfigError


def test_every_name_leads_to_its_scorer():
    for name, score in SCORERS.items():
        assert scorer(name) is score


def test_an_unknown_name_brings_the_nearest():
    with pytest.raises(ConfigError, match=r"'gsm8k_flexibel'\. Did you mean 'gsm8k_flexible'"):
        scorer("gsm8k_flexibel")
    with pytest.raises(ConfigError, match="Did you mean 'regex'"):
        scorer("regx")


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("exact_match", {"pattern": "x"}, "takes no options, got pattern"),
        ("regex", {}, "needs `pattern`"),
        ("regex", {"pattern": "x", "patern": "y"}, "does not know patern"),
        ("regex", {"pattern": "("}, "no regular expression"),
        ("regex", {"pattern": "x", "which": "third"}, "expected 'first' or 'last'"),
    ],
)
def test_wrong_options_are_the_users_mistake(name, options, fault):
    with pytest.raises(ConfigError, match=fault):
        scorer(name, **options)


# completion, reference, right by exact_match, right by contains
TEXTS = [
    ("Paris", "Paris", True, True),
    (" Paris\n", "Paris", True, True),
    ("Paris", " Paris ", True, True),
    ("\tParis", "Paris", True, True),
    ("paris", "Paris", False, False),
    ("PARIS", "Paris", False, False),
    ("Paris.", "Paris", False, True),
    ("It is Paris.", "Paris", False, True),
    ("Comparison", "Paris", False, False),
    ("Parisian", "Paris", False, True),
    ("", "Paris", False, False),
    ("   ", "Paris", False, False),
    ("", "", True, False),
    ("anything", "", False, False),
    ("anything", "  ", False, False),
    ("New  York", "New York", False, False),
    ("New\nYork", "New York", False, False),
    ("New York", "New York", True, True),
    ("in New York City", "New York", False, True),
    ("1,234", "1234", False, False),
    ("1234.0", "1234", False, True),
    ("12345", "1234", False, True),
    ("São Paulo", "São Paulo", True, True),
    ("Sa\u0303o Paulo", "São Paulo", False, False),
    ("a*b", "a*b", True, True),
    ("aab", "a*b", False, False),
    ("(x)", "(x)", True, True),
    ("f(x) = (x)", "(x)", False, True),
    ("yes\nno", "yes\nno", True, True),
    ("no\nyes\nno", "yes\nno", False, True),
    ("\u00a0Paris\u00a0", "Paris", True, True),
    ("Paris\x00", "Paris", False, True),
]


@pytest.mark.parametrize(("completion", "reference", "exact", "within"), TEXTS)
def test_exact_match_and_contains(completion, reference, exact, within):
    assert scorer("exact_match")(completion, reference).correct is exact
    assert scorer("contains")(completion, reference).correct is within


NUMBER = r"(\d+) apples|apples: (\d+)"

# pattern, options, completion, reference, parsed, correct
PATTERNS = [
    (NUMBER, {}, "3 apples", "3", "3", True),
    (NUMBER, {}, "apples: 3", "3", "3", True),
    (NUMBER, {}, "2 apples, no, 3 apples", "3", "3", True),
    (NUMBER, {"which": "first"}, "2 apples, no, 3 apples", "3", "2", False),
    (NUMBER, {"which": "first"}, "2 apples, no, 3 apples", "2", "2", True),
    (NUMBER, {}, "three apples", "3", None, False),
    (NUMBER, {}, "", "3", None, False),
    (NUMBER, {}, "13 apples", "3", "13", False),
    (NUMBER, {}, "3 apples", " 3 ", "3", True),
    (NUMBER, {}, "3 Apples", "3", None, False),
    (NUMBER, {"ignore_case": True}, "3 Apples", "3", "3", True),
    (r"\d+", {}, "3 of 4", "4", "4", True),
    (r"\d+", {"which": "first"}, "3 of 4", "3", "3", True),
    (r"Answer:(.*)", {}, "Answer: Paris ", "Paris", "Paris", True),
    (r"Answer:(.*)", {}, "Answer: Paris\nAnswer: Rome", "Paris", "Rome", False),
    (r"(?s)Answer:(.*)", {}, "Answer: Paris\nRome", "Paris\nRome", "Paris\nRome", True),
    (r"Answer:(.*)", {}, "Answer:", "", "", True),
    (r"Answer:(.*)", {"ignore_case": True}, "answer: PARIS", "Paris", "PARIS", True),
    (r"Answer:(.*)", {}, "Answer: PARIS", "Paris", "PARIS", False),
    (r"^(\w+)", {}, "yes, sure", "yes", "yes", True),
    (r"(?m)^(\w+)", {}, "yes\nno", "no", "no", True),
    (r"(a)|(b)", {}, "ab", "b", "b", True),
    (r"(a)?(b)", {}, "b", "b", "b", True),
    (r"(a)?b", {}, "b", "b", "b", True),
    (r"<a>(.*?)</a>", {}, "<a>1</a><a>2</a>", "2", "2", True),
    (r"<a>(.*?)</a>", {}, "<a>1", "1", None, False),
    (r"\b(yes|no)\b", {}, "know yes", "yes", "yes", True),
    (r"\b(yes|no)\b", {}, "yes or no", "yes", "no", False),
    (r"x", {}, "xx", "x", "x", True),
    (r"\$(\d+(?:\.\d\d)?)", {}, "$3.50", "3.50", "3.50", True),
    (r"é+", {}, "caféé", "éé", "éé", True),
    (r".*", {"which": "first"}, "all of it", "all of it", "all of it", True),
]


@pytest.mark.parametrize(("pattern", "options", "completion", "reference", "parsed", "correct"), PATTERNS)
def test_regex(pattern, options, completion, reference, parsed, correct):
    scored = scorer("regex", pattern=pattern, **options)(completion, reference)
    assert (scored.parsed, scored.correct) == (parsed, correct)


# completion, the letter in it
LETTERS = [
    ("C", "C"),
    ("(C)", "C"),
    ("C.", "C"),
    ("C)", "C"),
    ("C: Paris", "C"),
    (" C", "C"),
    ("\nC\n", "C"),
    ("**C**", "C"),
    ("**C.** Paris", "C"),
    ("C, because", "C"),
    ("The answer is C", "C"),
    ("The answer is (C).", "C"),
    ("The answer is: C", "C"),
    ("the answer is C.", "C"),
    ("Answer: C", "C"),
    ("ANSWER: C", "C"),
    ("Answer: **C**", "C"),
    ("The correct option is C", "C"),
    ("My choice is (C)", "C"),
    ("A is wrong. The answer is C.", "C"),
    ("The answer is A. No, the answer is C.", "C"),
    ("Option C", "C"),
    ("", None),
    ("Paris", None),
    ("Can it be?", None),
    ("The answer is Copenhagen", None),
    ("c", None),
    ("I think so", None),
    ("I", "I"),
    ("A cat", None),
    ("(C) Paris", "C"),
    ("5", None),
    ("It is (C)", None),
    ("C\nD", "C"),
    ("The answer is (C). Option A is wrong because it is.", "C"),
    ("Answer: C. Option A is incorrect.", "C"),
    ("The answer is C because choice A fails", "C"),
    ("The answer is \\boxed{C}", "C"),
    ("The answer is option C", "C"),
    ("Option A fails; the answer: **Choice (C)**", "C"),
    ("I think the answer is I do not know", None),
]


@pytest.mark.parametrize(("completion", "letter"), LETTERS)
def test_choice_letter(completion, letter):
    scored = scorer("choice_letter")(completion, "C")
    assert scored.parsed == letter
    assert scored.correct is (letter == "C")


def test_choice_letter_takes_references_in_brackets_or_small():
    assert scorer("choice_letter")("(B)", "b").correct
    assert scorer("choice_letter")("B", "(B)").correct
    assert not scorer("choice_letter")("A", "B").correct
