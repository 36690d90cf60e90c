"""Assertions become questions; harnesses are kept out of the program's reach where they can be."""

import ast

import pytest

from lora_ns.benchmarks.sandbox.checks import Question, checks_of, literal
from lora_ns.benchmarks.sandbox.harness import Harness, harness_of


@pytest.mark.parametrize(
    ("line", "expression", "expected"),
    [
        ("assert f(2) == 4", "f(2)", 4),
        ("assert 4 == f(2)", "f(2)", 4),
        ("assert f([1, 2], x='a') == {'a': (1, 2.5)}", "f([1, 2], x='a')", {"a": (1, 2.5)}),
        ("assert f(root) == -1", "f(root)", -1),
        ("assert sorted(f(2)) == [1], 'a message'", "sorted(f(2))", [1]),
        ("assert f(1) == set()", "f(1)", set()),
        ("assert f(1) == frozenset({1, 2})", "f(1)", frozenset({1, 2})),
        ("assert f(1) == tuple([1, 2])", "f(1)", (1, 2)),
        ("assert f(1) == float('inf')", "f(1)", float("inf")),
        ("assert f(1) == (3 + 5 * 7, 1.0 / 4)", "f(1)", (38, 0.25)),
        ("assert f(1) == 'a' 'b'", "f(1)", "ab"),
        ("assert f(1) == 2 + 3j", "f(1)", 2 + 3j),
        ("assert f(1) == b'x'", "f(1)", b"x"),
    ],
)
def test_a_comparison_with_a_literal_is_a_question(line, expression, expected):
    (check,) = checks_of((line,), "")
    assert check == Question(expression, expected)
    assert type(check.expected) is type(expected)


@pytest.mark.parametrize(("line", "expected"), [("assert f(1) is None", None), ("assert f(1) is True", True)])
def test_identity_with_a_singleton_is_judged_by_identity(line, expected):
    (check,) = checks_of((line,), "")
    assert check == Question("f(1)", expected, identical=True)
    assert not check.met_by(1)
    assert check.met_by(expected)


def test_a_question_compares_as_python_does():
    assert Question("f(1)", 1).met_by(True)
    assert Question("f(1)", 1).met_by(1.0)
    assert not Question("f(1)", [1, 2]).met_by((1, 2))
    assert not Question("f(1)", 0.3).met_by(0.1 + 0.2)
    assert not Question("f(1)", float("nan")).met_by(float("nan"))


@pytest.mark.parametrize(
    "line", ["assert f(1) != 2", "assert f(1)", "assert abs(f(1) - 2) < 1e-6", "assert f(1) == f(2)", "assert f(1) is 3"]
)
def test_any_other_assertion_is_a_harness_that_only_calls_the_program(line):
    assert checks_of((line,), "") == [Harness(line, ("f",))]


COMPARED_BY_THE_PROGRAM = [
    "assert (f(7) == 'secret') == True",
    "assert (f(7) == 'secret') is True",
    "assert ('secret' in f(7)) == True",
    "assert all(x == 5 for x in f(7)) == True",
    "assert (f(7) and 3) == 3",
    "assert (not f(7)) == False",
    "assert any(f(7)) == True",
    "assert isinstance(f(7), int) is True",
    "assert f(7).__eq__(5) is True",
    "assert [5].count(f(7)) == 1",
]


@pytest.mark.parametrize("line", COMPARED_BY_THE_PROGRAM)
def test_the_program_is_never_asked_to_compare(line):
    assert not any(isinstance(check, Question) for check in checks_of((line,), ""))


def test_the_expected_value_is_not_in_what_the_program_is_asked():
    harness = "def check(candidate):\n    assert candidate(1) == 'secret'\ncheck(f)"
    for check in checks_of(("assert f(1) == 'secret'",), harness):
        assert isinstance(check, Question)
        assert "secret" not in check.expression


def test_a_check_function_that_only_asserts_becomes_questions_about_the_entry_point():
    harness = """
METADATA = {'author': 'x'}

def check(candidate):
    '''What it checks.'''
    assert candidate(1) == 2, "first"
    assert True, "the usual filler"
    assert [3] == candidate(candidate(2))

check(solve)
"""
    assert checks_of((), harness) == [Question("solve(1)", 2), Question("solve(solve(2))", [3])]


@pytest.mark.parametrize(
    "harness",
    [
        "def check(candidate):\n    for x in range(3):\n        assert candidate(x) == x\ncheck(solve)",
        "N = 3\ndef check(candidate):\n    assert candidate(N) == 3\ncheck(solve)",
        "def check(candidate):\n    x = 3\n    assert candidate(x) == 3\ncheck(solve)",
    ],
)
def test_a_check_function_that_does_more_stays_whole(harness):
    assert checks_of((), harness) == [Harness(harness, ("solve",))]


@pytest.mark.parametrize("text", ["f(2)", "x", "'a' * 10**9", "10 ** 10 ** 10", "[x for x in y]", "1 / 0", "set(1, 2)"])
def test_what_is_no_literal_is_not_evaluated(text):
    with pytest.raises(ValueError):
        literal(ast.parse(text, mode="eval").body)


@pytest.mark.parametrize(
    "harness",
    [
        "s = Stack()\ns.push(1)\nassert s.pop() == 1",  # a class by its name
        "s = make()\ns.push(1)\nassert s.top() == 1",  # an attribute that no plain value has
        "for node in walk(1):\n    assert node.value",
        "assert total > 3",  # not called: a value of the program's
        "assert run(f, 3) != 3",  # handed on to somebody else
        "assert apply(lambda x: x, 3) != 4",  # a function cannot be sent
        "def double(x):\n    return 2 * x\nassert apply(double, 3) != 4",
    ],
)
def test_a_harness_that_may_handle_the_programs_objects_runs_beside_it(harness):
    assert harness_of(harness).program_names is None


@pytest.mark.parametrize(
    ("harness", "names", "modules"),
    [
        ("import random\nrng = random.Random(42)\nassert f(rng.randint(1, 3)) != 3", ("f",), ()),
        ("assert size((1, 2)) == sys.getsizeof((1, 2))", ("size",), ("sys",)),
        ("assert copy([1]) != [2]", ("copy",), ()),  # called, so it is the program's, not the module
        ("assert ' '.join(words('a').split()).upper() != 'A'", ("words",), ()),
        ("text = encode('a')\nassert decode(text) == text[::-1]", ("decode", "encode"), ()),
    ],
)
def test_a_harness_of_plain_values_runs_out_of_the_programs_reach(harness, names, modules):
    assert harness_of(harness) == Harness(harness, names, modules)
