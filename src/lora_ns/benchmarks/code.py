"""Code generation scored by running the programs: MBPP, HumanEval, and functions described in words.

    row          {"instruction": "Write add(a, b) …", "entry_point": "add", "test_list": ["assert add(1, 2) == 3"]}
    completion   "```python\\ndef add(a, b):\\n    return a + b\\n```"
    verdict      parsed: the program; pass@1 1.0; outcomes ["pass"]

A sample passes when every assertion holds in the sandbox.  pass@k is the unbiased estimate from the n samples drawn for
a problem.  Settings: `pass_at` (default [1]; pass@1, the main metric, is always reported), `timeout_seconds` per program
(default 3.0), and the sandbox's own.

Sources: Austin et al. 2021 (arXiv 2108.07732) for MBPP, whose task_ids 11–510 are the test set and 2, 3, 4 the
few-shot examples; Chen et al. 2021 (arXiv 2107.03374) for HumanEval.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from lora_ns.benchmarks import Benchmark, ExampleResult, Row
from lora_ns.benchmarks.scorers.code_extraction import extract_code, function_program
from lora_ns.benchmarks.scorers.pass_at_k import pass_at_k
from lora_ns.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lora_ns.benchmarks.sandbox import Outcome, Program

TIMEOUT_SECONDS = 3.0
FEW_SHOT_TASK_IDS = (2, 3, 4)
TEST_TASK_IDS = range(11, 511)


def mbpp_prompt(row: Row) -> str:
    """The published prompt for one problem: the task, its assertions, `[BEGIN]`."""
    tests = "\n".join(_asserts(row))
    return (
        f"You are an expert Python programmer, and here is your task: {_text(row, 'text').strip()} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def mbpp_asked(row: Row) -> list[str]:
    """Return the task text without the published prompt, for the contamination search in the training rows."""
    return [_text(row, "text")]


def humaneval_asked(row: Row) -> list[str]:
    """Return the function's docstring, whole and up to its first example, for the contamination search."""
    try:
        functions = [node for node in ast.parse(_text(row, "prompt")).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        return []
    said = ast.get_docstring(functions[-1]) if functions else None
    return [said, said.partition(">>>")[0]] if said else []


def mbpp_answer(row: Row) -> str:
    """The completion of a few-shot example, with `[DONE]` at its end."""
    return f"{_text(row, 'code')}\n[DONE]"


def mbpp_instruction(row: Row) -> str:
    """Return the prompt as an instruction, without the `[BEGIN]` marker that only few-shot examples explain."""
    return mbpp_prompt(row).removesuffix("\n[BEGIN]\n") + "\n\nAnswer with one fenced block of Python code."


def mbpp_test_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the test set.  Raises DataError if there are none."""
    chosen = [row for row in rows if row.get("task_id") in TEST_TASK_IDS]
    if not chosen:
        raise DataError(f"no row is of MBPP's test set: task_id {TEST_TASK_IDS[0]} to {TEST_TASK_IDS[-1]}.")
    return chosen


def mbpp_examples(rows: Sequence[Row]) -> list[Row]:
    """Return the three few-shot problems of the paper.  Raises DataError if one is missing from the rows."""
    by_id = {row.get("task_id"): row for row in rows}
    missing = [task_id for task_id in FEW_SHOT_TASK_IDS if task_id not in by_id]
    if missing:
        raise DataError(
            f"MBPP's few-shot prompt needs task_id {', '.join(map(str, missing))} among the rows; a sample of them by "
            "max_eval_samples may lack these: use the benchmark's `limit` instead, or num_fewshot: 0."
        )
    return [by_id[task_id] for task_id in FEW_SHOT_TASK_IDS]


def mbpp_program(row: Row, completion: str, timeout_seconds: float) -> Program:
    """The MBPP program: the completion's code, the row's set-up code after it, and the row's assertions."""
    from lora_ns.benchmarks.sandbox import Program

    asserts = _asserts(row)
    code = extract_code(completion, entry_point_of(asserts))
    setup = _text(row, "test_setup_code") if row.get("test_setup_code") else ""
    return Program(code=code, asserts=asserts, setup=setup, timeout_seconds=timeout_seconds)


def function_task_program(row: Row, completion: str, timeout_seconds: float) -> Program:
    """The program of a function task: the completion's code and the row's assertions."""
    from lora_ns.benchmarks.sandbox import Program

    code = extract_code(completion, _text(row, "entry_point"))
    return Program(code=code, asserts=_asserts(row), timeout_seconds=timeout_seconds)


def humaneval_program(row: Row, completion: str, timeout_seconds: float) -> Program:
    """The HumanEval program: prompt and completion, and `check` as assertions if it holds nothing else, else as a harness."""
    from lora_ns.benchmarks.sandbox import Program

    entry_point, test = _text(row, "entry_point"), _text(row, "test")
    code = function_program(_text(row, "prompt"), completion, entry_point)
    asserts = check_as_asserts(test, entry_point)
    if asserts is not None:
        return Program(code=code, asserts=asserts, timeout_seconds=timeout_seconds)
    return Program(code=code, harness=f"{test}\n\ncheck({entry_point})\n", timeout_seconds=timeout_seconds)


def check_as_asserts(test: str, entry_point: str) -> tuple[str, ...] | None:
    """The assertions of `def check(candidate)` about the entry point; None if the test contains other statements.

    Constant assertions (`assert True`) and assertion messages are left out.  Raises DataError for a test that is not Python.
    """
    try:
        others = [node for node in ast.parse(test).body if not _is_metadata(node)]
    except SyntaxError as error:
        raise DataError(f"the test of {entry_point!r} is no Python: {error}.") from None
    check = others[0] if len(others) == 1 else None
    if not isinstance(check, ast.FunctionDef) or check.name != "check" or len(check.args.args) != 1:
        return None
    candidate = check.args.args[0].arg
    asserts = []
    for statement in check.body:
        if not isinstance(statement, ast.Assert):
            return None
        if isinstance(statement.test, ast.Constant) and statement.test.value:
            continue
        for node in ast.walk(statement.test):
            if isinstance(node, ast.Name) and node.id == candidate:
                node.id = entry_point
        asserts.append(f"assert {ast.unparse(statement.test)}")
    return tuple(asserts) or None


def _is_metadata(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["METADATA"]


def entry_point_of(tests: Sequence[str]) -> str | None:
    """The function under test: the first one the assertions call that is not a Python built-in.

    If they call built-in names only, it is the first of those (MBPP/126 needs a function named `sum`).
    """
    called = [name for test in tests for name in _called_names(test)]
    return next((name for name in called if not hasattr(builtins, name)), called[0] if called else None)


def _called_names(test: str) -> list[str]:
    try:
        calls = [node for node in ast.walk(ast.parse(test.strip())) if isinstance(node, ast.Call)]
    except SyntaxError:
        return []
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def humaneval_instruction(row: Row) -> str:
    """Return the problem as an instruction."""
    asked = "Complete this Python function. Answer with the whole function in one fenced block."
    return f"{asked}\n\n```python\n{_text(row, 'prompt')}```"


ProgramOf = Callable[[Row, str, float], "Program"]
"""(row, completion, timeout_seconds) -> Program."""


def judge_of(program_of: ProgramOf) -> Callable[..., list[ExampleResult]]:
    """Return a judge that runs `program_of` of each completion.  A sandbox failure raises SandboxError and never scores 0."""

    def judge(rows: Sequence[Row], completions: Sequence[Sequence[str]], settings: Mapping[str, Any]) -> list[ExampleResult]:
        from lora_ns.benchmarks.sandbox import run_checks

        timeout_seconds = float(settings.get("timeout_seconds", TIMEOUT_SECONDS))
        ks = _checked_ks(settings.get("pass_at", (1,)), completions)
        programs = [
            [program_of(row, sample, timeout_seconds) for sample in samples]
            for row, samples in zip(rows, completions, strict=True)
        ]
        outcomes = iter(run_checks([program for of_row in programs for program in of_row], settings))
        return [_verdict([program.code for program in of_row], list(islice(outcomes, len(of_row))), ks) for of_row in programs]

    return judge


def _check(settings: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
    _checked_ks(settings.get("pass_at", (1,)), [[""] * int(generation.get("num_samples", 1))])
    for key in ("timeout_seconds", "memory_mb"):
        value = settings.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ConfigError(f"{key}: expected a number above 0, found {value!r}.")


def _checked_ks(ks: Any, completions: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """Return the ks of pass@k, 1 first.  Raises ConfigError, before anything runs, for a k above the number of samples."""
    fewest = min(map(len, completions), default=0)
    ks = ks if isinstance(ks, (list, tuple)) else [ks]
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= fewest for k in ks):
        raise ConfigError(f"pass_at: expected whole numbers from 1 to {fewest}, the samples of a problem; got {ks!r}.")
    return tuple(dict.fromkeys((1, *ks)))


def _verdict(codes: Sequence[str], outcomes: Sequence[Outcome], ks: Sequence[int]) -> ExampleResult:
    passed = sum(outcome.status == "pass" for outcome in outcomes)
    return ExampleResult(
        parsed=codes[0],
        scores={f"pass@{k}": pass_at_k(len(outcomes), passed, k) for k in ks},
        detail={
            **({"programs": list(codes)} if len(codes) > 1 else {}),
            "outcomes": [outcome.status for outcome in outcomes],
            "messages": [outcome.message for outcome in outcomes],
        },
    )


def _text(row: Row, column: str) -> str:
    if not isinstance(row.get(column), str):
        raise DataError(f"this benchmark needs a text column {column!r}; the row has {', '.join(map(str, row))}.")
    return row[column].replace("\r\n", "\n")


def _asserts(row: Row) -> tuple[str, ...]:
    tests = row.get("test_list")
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise DataError(f"this benchmark needs a column 'test_list' of assertions; the row has {', '.join(map(str, row))}.")
    return tuple(str(test).replace("\r\n", "\n").strip() for test in tests)


def _tests(row: Row) -> list[str]:
    return list(_asserts(row))


def _benchmark(name: str, program_of: ProgramOf, reference: Callable[[Row], Any], stop: list[str], **fields: Any) -> Benchmark:
    return Benchmark(
        name=name,
        kind="generation",
        main_metric="pass@1",
        metrics=("pass@1",),
        reference=reference,
        judge=judge_of(program_of),
        program=program_of,
        settings=("pass_at", "timeout_seconds", "memory_mb"),
        check=_check,
        generation={"max_new_tokens": 512, "stop": stop},
        protocol=2,
        **fields,
    )


BENCHMARKS = [
    _benchmark("python_functions", function_task_program, _tests, [], gold=lambda row: row.get("output")),
    _benchmark(
        "mbpp",
        mbpp_program,
        _tests,
        ["[DONE]"],
        select=mbpp_test_rows,
        prompt=mbpp_prompt,
        asked=mbpp_asked,
        instruction=mbpp_instruction,
        num_fewshot=len(FEW_SHOT_TASK_IDS),
        examples=mbpp_examples,
        example_answer=mbpp_answer,
        gold=lambda row: f"```python\n{_text(row, 'code').strip()}\n```",
    ),
    _benchmark(
        "humaneval",
        humaneval_program,
        lambda row: _text(row, "test"),
        ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
        prompt=lambda row: _text(row, "prompt"),
        asked=humaneval_asked,
        instruction=humaneval_instruction,
        gold=lambda row: row.get("canonical_solution"),
    ),
]
