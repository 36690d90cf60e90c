"""MBPP, HumanEval and described functions: prompts, programs, and verdicts of the real sandbox."""

import ast
import gzip
import json

import numpy as np
import pytest
from support import SHARED_DATA

from lora_ns.benchmarks import benchmark
from lora_ns.benchmarks.code import (
    TEST_TASK_IDS,
    check_as_asserts,
    entry_point_of,
    humaneval_program,
    mbpp_answer,
    mbpp_examples,
    mbpp_program,
    mbpp_prompt,
)
from lora_ns.benchmarks.sandbox.running import chosen_tier
from lora_ns.config import DatasetConfig
from lora_ns.data.contamination import QUESTIONS, forms_of, hashes_of, seen_in_training
from lora_ns.data.prompts import with_examples
from lora_ns.errors import ConfigError, DataError, SandboxError

SHARED = SHARED_DATA
MBPP = SHARED / "mbpp" / "mbpp.jsonl"
HUMANEVAL = SHARED / "humaneval" / "HumanEval.jsonl.gz"


def isolation_missing():
    try:
        chosen_tier("auto")
    except SandboxError as error:
        return str(error)
    return None


needs_sandbox = pytest.mark.skipif(isolation_missing() is not None, reason="no sandbox on this machine")

ADD = {
    "instruction": "Write add(a, b).",
    "output": "def add(a, b):\n    return a + b",
    "entry_point": "add",
    "test_list": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"],
}
DOUBLE = {
    "task_id": 900,
    "text": "Write a function to double a number. ",
    "code": "def double(x):\r\n  return 2 * x",
    "test_setup_code": "",
    "test_list": ["assert double(1) == 2", "assert double(2) == 4", "assert double(-3) == -6"],
}
TOTAL = {
    "task_id": "HumanEval/900",
    "prompt": 'def total(xs):\n    """ Sum of xs.\n    """\n',
    "canonical_solution": "    return sum(xs)\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
    "entry_point": "total",
}
LOOP = TOTAL | {
    "test": "def check(candidate):\n    for n in range(5):\n        assert candidate(list(range(n))) == n * (n - 1) // 2\n"
}


DESCRIBED = {
    "prompt": 'def total(xs):\n    """Sum of the numbers,\n    0 where there are none.\n\n    >>> total([1, 2])\n    3\n    """\n'
}


def judged(name, row, samples, **settings):
    (verdict,) = benchmark(name).judge([row], [samples], settings)
    return verdict


# -- prompts -------------------------------------------------------------------------------------------------------


def test_mbpp_prompt_is_the_published_form():
    assert mbpp_prompt(DOUBLE) == (
        "You are an expert Python programmer, and here is your task: Write a function to double a number. "
        "Your code should pass these tests:\n\n"
        "assert double(1) == 2\nassert double(2) == 4\nassert double(-3) == -6\n[BEGIN]\n"
    )
    assert benchmark("mbpp").prompt(DOUBLE) == mbpp_prompt(DOUBLE)


def test_mbpp_few_shot_prompt_closes_each_example():
    solved = (mbpp_prompt(DOUBLE), mbpp_answer(DOUBLE))
    shown = with_examples(mbpp_prompt(DOUBLE), [solved, solved])
    assert shown.count("[BEGIN]\ndef double(x):\n  return 2 * x\n[DONE]\n\n") == 2
    assert shown.endswith(mbpp_prompt(DOUBLE))
    assert "\r" not in shown


def test_mbpp_examples_need_their_rows():
    with pytest.raises(DataError, match="needs task_id 2, 3, 4"):
        mbpp_examples([DOUBLE])


@pytest.mark.skipif(not MBPP.exists(), reason="MBPP is not at ../shared/data")
def test_mbpp_examples_are_the_papers_and_lie_outside_its_test_set():
    rows = [json.loads(line) for line in MBPP.read_text(encoding="utf-8").splitlines()]
    assert [row["task_id"] for row in mbpp_examples(rows)] == [2, 3, 4]
    assert sum(row["task_id"] in TEST_TASK_IDS for row in rows) == 500
    assert not {2, 3, 4} & set(TEST_TASK_IDS)


def test_humaneval_prompt_is_the_rows():
    assert benchmark("humaneval").prompt(TOTAL) == TOTAL["prompt"]


TOTAL_IN_WORDS = "Sum of the numbers, 0 where there are none."


@pytest.mark.parametrize(
    ("name", "row", "instruction", "found"),
    [
        ("mbpp", DOUBLE, "write a function to double a number", 1),
        ("mbpp", DOUBLE, mbpp_prompt(DOUBLE), 1),
        ("mbpp", DOUBLE, "Write a function to triple a number.", 0),
        ("humaneval", DESCRIBED, TOTAL_IN_WORDS, 1),
        ("humaneval", DESCRIBED, DESCRIBED["prompt"], 1),
        ("humaneval", DESCRIBED, "Sum of the numbers.", 0),
    ],
)
def test_a_problem_is_found_among_training_rows_that_ask_it_in_their_own_frame(tmp_path, name, row, instruction, found):
    trained = DatasetConfig.model_validate({"name": "x", "format": "alpaca"})
    rows = [{"instruction": instruction, "input": "", "output": "…"}]
    np.save(tmp_path / QUESTIONS, np.unique(hashes_of(rows, trained, "causal_lm")))
    asked = [forms_of(row, benchmark(name), DatasetConfig.model_validate({"name": "y"}), "causal_lm")]
    assert seen_in_training(asked, tmp_path, ["7"]) == {"rows": found, "ids": ["7"] * found}


# -- programs ------------------------------------------------------------------------------------------------------


def test_mbpp_program_holds_setup_and_all_asserts():
    program = mbpp_program(DOUBLE | {"test_setup_code": "x = 1\r\ny = 2"}, f"[BEGIN]\n{DOUBLE['code']}\n[DONE]", 1.5)
    assert program.code == "def double(x):\n  return 2 * x\n"
    assert program.asserts == tuple(DOUBLE["test_list"])
    assert program.setup == "x = 1\ny = 2"
    assert program.timeout_seconds == 1.5


def test_humaneval_asserts_speak_of_the_entry_point():
    assert check_as_asserts(TOTAL["test"], "total") == ("assert total([1, 2]) == 3", "assert total([]) == 0")


@pytest.mark.parametrize(
    "test",
    [
        LOOP["test"],
        "import math\n\n\ndef check(candidate):\n    assert candidate(1) == math.pi\n",
        "def check(candidate):\n    assert True\n",
        "def check(candidate):\n    import math\n    assert candidate(1) == 1\n",
        "def other(candidate):\n    assert candidate(1) == 1\n",
    ],
)
def test_a_check_that_does_more_than_assert_stays_whole(test):
    assert check_as_asserts(test, "total") is None
    program = humaneval_program(TOTAL | {"test": test}, "    return 0\n", 3.0)
    assert program.asserts == ()
    assert program.harness.startswith(test)
    assert program.harness.endswith("\ncheck(total)\n")


def test_a_check_that_is_no_python_is_the_users_mistake():
    with pytest.raises(DataError, match="the test of 'total' is no Python"):
        check_as_asserts("def check(candidate:", "total")


@pytest.mark.skipif(not HUMANEVAL.exists(), reason="HumanEval is not at ../shared/data")
def test_humanevals_checks_lose_no_assertion():
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    as_asserts = {row["task_id"]: check_as_asserts(row["test"], row["entry_point"]) for row in rows}
    assert sum(asserts is None for asserts in as_asserts.values()) == 7
    for row in rows:
        asserts = as_asserts[row["task_id"]]
        if asserts is None:
            continue
        stated = [node.test for node in ast.walk(ast.parse(row["test"])) if isinstance(node, ast.Assert)]
        meaningful = [test for test in stated if not isinstance(test, ast.Constant)]
        assert len(asserts) == len(meaningful)
        assert all("candidate" not in line for line in asserts)


@pytest.mark.parametrize(
    ("tests", "entry_point"),
    [
        (["assert f(1) == 2"], "f"),
        (["assert set(f(1)) == set([2])"], "f"),
        (["assert sorted(f([1])) == [2]", "assert g(1)"], "f"),
        (["assert sum(1, 2) == 3"], "sum"),
        (["assert math.isclose(f(1), 2)"], "f"),
        (["assert True"], None),
        (["not python at all"], None),
        ([], None),
    ],
)
def test_entry_point_of_assertions(tests, entry_point):
    assert entry_point_of(tests) == entry_point


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [
        ("python_functions", {"instruction": "x"}, "entry_point"),
        ("python_functions", {"entry_point": "f", "test_list": []}, "test_list"),
        ("mbpp", {"text": "x", "test_list": "assert f()"}, "test_list"),
        ("humaneval", {"prompt": "x", "entry_point": "f"}, "test"),
    ],
)
def test_a_row_of_another_shape_is_the_users_mistake(name, row, column):
    with pytest.raises(DataError, match=f"'{column}'"):
        judged(name, row, ["pass"])


@pytest.mark.parametrize("ks", [[], [0], [3], [1, 3], [True], ["1"], [1.0]])
def test_a_k_that_the_samples_cannot_answer_is_refused_before_anything_runs(ks):
    with pytest.raises(ConfigError, match="whole numbers from 1 to 2"):
        judged("python_functions", {}, ["pass", "pass"], pass_at=ks)


# -- verdicts ------------------------------------------------------------------------------------------------------


@needs_sandbox
def test_a_right_and_a_wrong_function():
    right, wrong = benchmark("python_functions").judge(
        [ADD, ADD], [[f"```python\n{ADD['output']}\n```"], ["def add(a, b):\n    return a - b"]], {}
    )
    assert right.scores == {"pass@1": 1.0}
    assert right.detail["outcomes"] == ["pass"]
    assert right.parsed == ADD["output"] + "\n"
    assert wrong.scores == {"pass@1": 0.0}
    assert wrong.detail["outcomes"] == ["wrong"]
    assert wrong.detail["messages"][0]


@needs_sandbox
def test_pass_at_1_is_there_whatever_else_is_asked():
    verdict = judged("python_functions", ADD, ["def add(a, b): return a + b", "def add(a, b): return 0"], pass_at=[2])
    assert verdict.scores == {"pass@1": 0.5, "pass@2": 1.0}


@needs_sandbox
def test_pass_at_k_counts_the_samples_of_each_row():
    bad = "def add(a, b):\n    return 0"
    verdicts = benchmark("python_functions").judge(
        [ADD, ADD], [[bad, ADD["output"], bad, ADD["output"], bad], [bad] * 5], {"pass_at": [1, 2, 5]}
    )
    assert verdicts[0].scores == {"pass@1": pytest.approx(0.4), "pass@2": pytest.approx(0.7), "pass@5": pytest.approx(1.0)}
    assert verdicts[0].detail["outcomes"] == ["wrong", "pass", "wrong", "pass", "wrong"]
    assert set(verdicts[1].scores.values()) == {0.0}


@needs_sandbox
def test_outcomes_of_programs_that_fail_in_different_ways():
    samples = ["def add(a, b):\n    while True: pass", "def add(a, b):\n    raise ValueError('no')", "nothing", ADD["output"]]
    verdict = judged("python_functions", ADD, samples, timeout_seconds=1.0)
    assert verdict.detail["outcomes"][0] == "timeout"
    assert verdict.detail["outcomes"][1] == "exception"
    assert verdict.detail["outcomes"][2] in ("exception", "wrong")
    assert verdict.detail["outcomes"][3] == "pass"
    assert verdict.scores["pass@1"] == 0.25


@needs_sandbox
@pytest.mark.parametrize("row", [TOTAL, LOOP], ids=["asserts", "harness"])
def test_humaneval_by_body_by_whole_function_and_wrong(row):
    samples = [
        "    return sum(xs)\n\n\nprint(total([1]))\n",
        "```python\ndef total(xs):\n    return sum(xs)\n```",
        "    return 1\n",
    ]
    assert judged("humaneval", row, samples).detail["outcomes"] == ["pass", "pass", "wrong"]


@needs_sandbox
def test_mbpp_setup_code_may_use_the_programs_own_classes():
    row = DOUBLE | {
        "test_setup_code": "box = Box(3)",
        "test_list": ["assert double(box) == 6", "assert double(Box(1)) == 2", "assert double(Box(0)) == 0"],
    }
    code = "class Box:\n    def __init__(self, n):\n        self.n = n\n\n\ndef double(box):\n    return 2 * box.n\n"
    assert judged("mbpp", row, [code]).scores == {"pass@1": 1.0}


@needs_sandbox
@pytest.mark.skipif(not (MBPP.exists() and HUMANEVAL.exists()), reason="MBPP and HumanEval are not at ../shared/data")
def test_golds_pass_through_extraction_and_judge():
    mbpp = [json.loads(line) for line in MBPP.read_text(encoding="utf-8").splitlines()][10:510:25]
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        humaneval = [json.loads(line) for line in file][::10]
    fenced = [[f"Here:\n```python\n{row['code']}\n```\nDone."] for row in mbpp]
    bodies = [[row["canonical_solution"] + "\n\ndef unrelated():\n    pass\n"] for row in humaneval]
    for name, rows, completions in (("mbpp", mbpp, fenced), ("humaneval", humaneval, bodies)):
        verdicts = benchmark(name).judge(rows, completions, {"timeout_seconds": 10.0})
        assert [verdict.detail["outcomes"] for verdict in verdicts] == [["pass"]] * len(rows)
