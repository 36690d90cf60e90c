"""Report on the sandbox of this machine: attacks, gold solutions and run times.

evaluation/sandbox_report.py saves it as results/scratch/sandbox/<host>-<digest>.json.
"""

from collections.abc import Sequence
from typing import Any

from lora_ns.benchmarks import Benchmark, Row
from lora_ns.benchmarks.sandbox import Program, check_sandbox
from lora_ns.errors import ConfigError

TIMEOUT_SECONDS = 3.0


def gold_programs(spec: Benchmark, rows: Sequence[Row], ids: Sequence[str], timeout: float) -> dict[str, Program]:
    """Return id -> program of the row's gold solution, for rows that have one.  Raises ConfigError for other benchmarks."""
    if spec.program is None or spec.gold is None:
        raise ConfigError(f"benchmark {spec.name} runs no programs, so it has no gold solutions to try.")
    golds = {identity: (row, spec.gold(row)) for identity, row in zip(ids, rows, strict=True)}
    return {identity: spec.program(row, gold, timeout) for identity, (row, gold) in golds.items() if gold}


def named_report(golds: dict[str, Program], sandbox: str, limits: dict[str, Any]) -> dict[str, Any]:
    """Return the report of `check_sandbox`, with failed gold solutions by id."""
    report = check_sandbox(sandbox, list(golds.values()), limits)
    ids, tried = list(golds), report["golds"]
    failed = [{"id": ids[gold["index"]], "status": gold["status"], "message": gold["message"]} for gold in tried["failed"]]
    seconds = {name: tried[name] for name in ("median_seconds", "slowest_seconds")}
    return {**report, "golds": {"total": tried["total"], "passed": tried["passed"], "failed": failed, "seconds": seconds}}


def outcome_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return the reproducible part of a report: tier, result of each attack, and gold results without times."""
    golds = {key: value for key, value in report["golds"].items() if key != "seconds"}
    return {"tier": report["tier"], "attacks": report["attacks"], "golds": golds}


def warnings_of(report: dict[str, Any] | None, name: str) -> list[str]:
    """Return the sandbox warnings for a score."""
    if report is None:
        return []
    failed = report["golds"]["failed"]
    found = ["generated code was run without isolation"] if report["tier"] == "unsafe" else []
    if failed:
        shown = ", ".join(f"{gold['id']} ({gold['status']})" for gold in failed[:5])
        found.append(f"{len(failed)} of {report['golds']['total']} gold solutions of {name} do not pass here: {shown}")
    return found
