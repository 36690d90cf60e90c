"""Runs many programs in parallel and chooses the sandbox tier."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from lora_ns.benchmarks.sandbox.judging import outcome_of
from lora_ns.benchmarks.sandbox.process import Limits
from lora_ns.benchmarks.sandbox.program import Outcome, Program
from lora_ns.benchmarks.sandbox.tiers import Tier, tier_of, unavailable
from lora_ns.errors import SandboxError

NO_SETTINGS: Mapping[str, Any] = {}


def run_programs(programs: Sequence[Program], tier: Tier, workers: int | None, limits: Limits) -> list[Outcome]:
    """Return the outcomes, in the programs' order.  No process is left running when this returns."""
    executor = ThreadPoolExecutor(max_workers=workers or _cores(), thread_name_prefix="sandbox")
    try:
        return list(executor.map(partial(outcome_of, tier=tier, limits=limits), programs))
    finally:
        executor.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_tier(name: str) -> Tier:
    """Return the tier of that name; `auto`: the best one on this machine, never `unsafe`.  Raises SandboxError."""
    if name != "auto":
        return tier_of(name)
    reasons = {candidate: unavailable(candidate) for candidate in ("bubblewrap", "landlock")}
    for candidate, reason in reasons.items():
        if reason is None:
            return tier_of(candidate)
    raise SandboxError(
        "generated code cannot be isolated on this machine, so it is not run. "
        + " ".join(f"{candidate}: {reason}." for candidate, reason in reasons.items())
        + " Install the system packages `bubblewrap` and `libseccomp2` (and Python's `pyseccomp`), or use a kernel with "
        "Landlock (5.13 or newer), or accept the risk with `evaluation.sandbox: unsafe`, which every score and table "
        "will then say."
    )
