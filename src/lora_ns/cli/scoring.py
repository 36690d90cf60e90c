"""The commands that need no model: score, sandbox-check."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lora_ns.cli.options import errors
from lora_ns.config.yaml_io import why_unreadable
from lora_ns.errors import DataError, SandboxError

app = typer.Typer()

NAMED_LINES = 10


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help='Lines of {"completion": …, "reference": …}; - for stdin.')],
    scorer: Annotated[str, typer.Option("--scorer", help="gsm8k_strict, math_verify, exact_match, regex …")],
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Of the scorer: --option pattern='answer is (.*)'.")
    ] = None,
) -> None:
    """Judge completions made elsewhere.  Example: lora-ns score answers.jsonl --scorer gsm8k_flexible"""
    from lora_ns.benchmarks.scorers import as_reference
    from lora_ns.benchmarks.scorers import scorer as find
    from lora_ns.config import parse_overrides

    judge = find(scorer, **parse_overrides(option or []))
    correct = total = 0
    for line in _completions(file):
        verdict = judge(line[_asked(line)], str(as_reference(line["reference"])))
        typer.echo(_written({**line, "parsed": verdict.parsed, "correct": verdict.correct}))
        correct, total = correct + verdict.correct, total + 1
    errors.print(f"{scorer}: {correct} of {total} right, {correct / total:.1%}.")


def _written(content: dict[str, Any]) -> str:
    """Return one line of JSON; all non-ASCII is escaped if it holds a lone surrogate, which UTF-8 cannot encode."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content)
    return text


def _completions(file: Path) -> list[dict[str, Any]]:
    """Read and check all lines before any is scored.  Raises DataError that names the malformed ones."""
    try:
        given = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = given.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {why_unreadable(error)}.") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    checked = [(number, *_checked(line)) for number, line in lines]
    faults = [f"line {number}: {fault}" for number, _, fault in checked if fault]
    if faults:
        more = f" (and {len(faults) - NAMED_LINES} more)" if len(faults) > NAMED_LINES else ""
        raise DataError(f"{file}: {'; '.join(faults[:NAMED_LINES])}{more}.")
    if not checked:
        raise DataError(f"{file}: the file holds no lines.")
    return [content for _, content, _ in checked]


def _asked(content: dict[str, Any]) -> str:
    """Return the key of the text to score: `infer` writes `predicted_completion` if a row already has a `completion`."""
    key = "completion"
    while f"predicted_{key}" in content:
        key = f"predicted_{key}"
    return key


def _checked(line: str) -> tuple[dict[str, Any], str | None]:
    """Return (content of the line, its fault or None)."""
    from lora_ns.benchmarks.scorers import as_reference

    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        return {}, f"not valid JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or brackets nested too deep
        return {}, f"not valid JSON ({error})"
    if not isinstance(content, dict):
        return {}, f"expected an object, found {type(content).__name__}"
    key = _asked(content)
    if not isinstance(content.get(key), str):
        return {}, f"`{key}` is no text" if key in content else f"has no `{key}`"
    reference = content.get("reference")
    if as_reference(reference) is None or isinstance(reference, bool):
        return {}, "`reference` is neither text nor number" if "reference" in content else "has no `reference`"
    return content, None


@app.command(name="sandbox-check")
def sandbox_check(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    golds: Annotated[
        list[Path] | None, typer.Option("--golds", help="HumanEval, MBPP or rows of the same shape: solutions to try.")
    ] = None,
    sandbox: Annotated[Literal["auto", "bubblewrap", "landlock"], typer.Option(help="What isolates it.")] = "auto",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a program.")] = 3.0,
) -> None:
    """Whether this machine can run a model's code safely.  Example: lora-ns sandbox-check --golds HumanEval.jsonl.gz"""
    from lora_ns.benchmarks.sandbox.health import named_report

    programs = {identity: program for file in golds or [] for identity, program in _golds_of(file, timeout)}
    report = named_report(programs, sandbox, {})
    if not programs:
        report["golds"] = None
    typer.echo(json.dumps(report, indent=1) if as_json else _as_text(report))
    worked = [name for name, verdict in report["attacks"].items() if verdict != "blocked"]
    if worked:
        raise SandboxError(f"the sandbox {report['tier']} does not hold on this machine: {', '.join(worked)} got through.")
    failed = report["golds"]["failed"] if report["golds"] else []
    wrong = [gold["id"] for gold in failed if gold["status"] != "timeout"]
    if wrong:
        raise SandboxError(f"gold solutions do not pass in the sandbox {report['tier']}: {', '.join(wrong)}.")
    if failed:
        errors.print(f"{len(failed)} gold solutions take longer than {timeout:g} s here: no model can pass them either.")


def _golds_of(file: Path, timeout: float) -> Iterator[tuple[str, Any]]:
    """Yield (id, program with the gold solution) of each row; the columns decide which benchmark it is."""
    from lora_ns.benchmarks import benchmark
    from lora_ns.benchmarks.sandbox.health import gold_programs
    from lora_ns.config import DatasetConfig
    from lora_ns.data.sources import local

    (table,) = local.load(DatasetConfig.model_validate({"name": {"test": str(file)}})).values()
    rows = table.to_pylist()
    if {"prompt", "canonical_solution", "test"} <= set(rows[0]):
        name = "humaneval"
    elif {"code", "test_list"} <= set(rows[0]):
        name = "mbpp"
    elif {"output", "entry_point", "test_list"} <= set(rows[0]):
        name = "python_functions"
    else:
        raise DataError(f"{file}: its columns ({', '.join(rows[0])}) are not those of HumanEval, MBPP or python_functions.")
    ids = [f"{name}/{str(row.get('task_id', number)).split('/')[-1]}" for number, row in enumerate(rows)]
    yield from gold_programs(benchmark(name), rows, ids, timeout).items()


def _as_text(report: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version is not None)
    lines = [f"tier     {report['tier']}  ({versions})"]
    lines += [f"attack   {name}: {verdict}" for name, verdict in report["attacks"].items()]
    golds = report["golds"]
    if golds:
        median, slowest = golds["seconds"]["median_seconds"], golds["seconds"]["slowest_seconds"]
        lines.append(f"golds    {golds['passed']} of {golds['total']} pass; {median:.3f} s median, {slowest:.3f} s slowest")
        lines += [f"         {gold['id']}: {gold['status']}, {gold['message']}" for gold in golds["failed"]]
    return "\n".join(lines)
