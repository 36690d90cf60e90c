"""Tests the sandbox with attack programs before it runs any generated code."""

import importlib.metadata
import platform
import shutil
import statistics
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lora_ns.benchmarks.sandbox.attacks import EXPECTED, attack_programs, forgery_programs
from lora_ns.benchmarks.sandbox.process import Limits
from lora_ns.benchmarks.sandbox.program import Outcome, Program
from lora_ns.benchmarks.sandbox.running import NO_SETTINGS, chosen_tier, run_programs
from lora_ns.benchmarks.sandbox.tiers import Tier, landlock_abi
from lora_ns.errors import SandboxError

_verdicts: dict[str, dict[str, str]] = {}
_one_at_a_time = threading.Lock()


def run_checks(programs: Sequence[Program], settings: Mapping[str, Any] = NO_SETTINGS) -> list[Outcome]:
    """Run and judge isolated programs in parallel. Returns the outcomes in the programs' order.

    settings: `sandbox` (auto, bubblewrap, landlock, unsafe; default auto), `workers` (default: number of cores),
        `memory_mb` per program (default 1024); others are ignored.
    Raises SandboxError if programs cannot be isolated or an attack of the self-test works; DataError for a check
    that is not Python.
    """
    if not programs:
        return []
    tier = chosen_tier(str(settings.get("sandbox") or "auto"))
    worked = [name for name, verdict in attacks_on(tier).items() if verdict != "blocked"]
    if worked:
        raise SandboxError(
            f"the sandbox {tier.name!r} does not hold on this machine: {', '.join(worked)} got through. No generated code "
            "was run. Choose another tier by `evaluation.sandbox` (bubblewrap, landlock)."
        )
    return run_programs(programs, tier, settings.get("workers"), _limits(settings))


def check_sandbox(
    sandbox: str = "auto", golds: Sequence[Program] | None = None, settings: Mapping[str, Any] = NO_SETTINGS
) -> dict[str, Any]:
    """Return a report on the sandbox of this machine, with the result of every attack.

    golds: programs known to be right; their outcomes show whether the sandbox is too tight, or the machine too slow.
    The report has `tier`, `versions`, `attacks` (name: blocked or worked; empty for the unsafe tier, where none is tried)
    and `golds` (None where none were given): `total`, `passed`, `failed` (index, status, message), `median_seconds`,
    `slowest_seconds`.  Attacks run once per process and tier.  Raises SandboxError for an unknown or unavailable tier.
    """
    tier = chosen_tier(sandbox)
    return {
        "tier": tier.name,
        "versions": _versions(),
        "attacks": attacks_on(tier),
        "golds": None if golds is None else _report_of_golds(golds, tier, settings),
    }


def attacks_on(tier: Tier) -> dict[str, str]:
    """Return attack -> `blocked` or `worked`; {} for the unsafe tier.  Raises SandboxError if one could not be tried."""
    if tier.name == "unsafe":
        return {}
    with _one_at_a_time:
        if tier.name not in _verdicts:
            with attack_programs() as programs:
                tried = programs | forgery_programs()
                outcomes = run_programs(list(tried.values()), tier, None, Limits())
            _verdicts[tier.name] = {name: _verdict(name, outcome) for name, outcome in zip(tried, outcomes, strict=True)}
        return dict(_verdicts[tier.name])


def _verdict(name: str, outcome: Outcome) -> str:
    if name.startswith("forge_"):
        return "worked" if outcome.status == "pass" else "blocked"
    if outcome.status in EXPECTED.get(name, ("pass",)):
        return "blocked"
    if outcome.status == "wrong":
        return "worked"
    raise SandboxError(f"the sandbox's self-test could not try {name}: {outcome.status}, {outcome.message}")


def _report_of_golds(golds: Sequence[Program], tier: Tier, settings: Mapping[str, Any]) -> dict[str, Any]:
    outcomes = run_programs(golds, tier, settings.get("workers"), _limits(settings))
    seconds = [outcome.seconds for outcome in outcomes]
    return {
        "total": len(outcomes),
        "passed": sum(outcome.status == "pass" for outcome in outcomes),
        "failed": [
            {"index": index, "status": outcome.status, "message": outcome.message}
            for index, outcome in enumerate(outcomes)
            if outcome.status != "pass"
        ],
        "median_seconds": statistics.median(seconds) if seconds else None,
        "slowest_seconds": max(seconds, default=None),
    }


def _limits(settings: Mapping[str, Any]) -> Limits:
    return Limits(memory_bytes=int(settings.get("memory_mb") or 1024) << 20)


def _versions() -> dict[str, str | int | None]:
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "bubblewrap": _bubblewrap_version(),
        "landlock_abi": landlock_abi() or None,
        "pyseccomp": _package_version("pyseccomp"),
    }


def _bubblewrap_version() -> str | None:
    command = shutil.which("bwrap")
    if command is None:
        return None
    return subprocess.run([command, "--version"], capture_output=True, text=True).stdout.split()[-1]


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
