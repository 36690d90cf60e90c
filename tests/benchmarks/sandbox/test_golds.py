"""Published solutions pass in every tier, quickly: the sandbox is not too tight, and the judge judges as the benchmarks do."""

import gzip
import itertools
import json
import statistics
import time
from pathlib import Path

import pytest
from support import SHARED_DATA

from lora_ns.benchmarks.sandbox import Program, check_sandbox
from lora_ns.benchmarks.sandbox.checks import checks_of
from lora_ns.benchmarks.sandbox.harness import Harness
from lora_ns.benchmarks.sandbox.judging import outcome_of
from lora_ns.benchmarks.sandbox.process import Limits
from lora_ns.benchmarks.sandbox.tiers import tier_of, unavailable

DATA = SHARED_DATA
HUMANEVAL = DATA / "humaneval" / "HumanEval.jsonl.gz"
MBPP = DATA / "mbpp" / "mbpp.jsonl"
GOLD_SECONDS = 30.0  # MBPP/123 takes 4.5 s on a slow core, more beside other work
TIERS = [
    pytest.param(name, marks=pytest.mark.skipif(bool(unavailable(name)), reason=f"{name}: {unavailable(name)}"))
    for name in ("bubblewrap", "landlock")
]

pytestmark = pytest.mark.skipif(not HUMANEVAL.exists() or not MBPP.exists(), reason=f"no HumanEval and MBPP in {DATA}")


def gold_programs(path: Path) -> dict[str, Program]:
    """The published solutions of HumanEval or MBPP with their tests, by task."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines]
    if "entry_point" in rows[0]:
        return {
            row["task_id"]: Program(
                row["prompt"] + row["canonical_solution"],
                harness=f"{row['test']}\ncheck({row['entry_point']})",
                timeout_seconds=GOLD_SECONDS,
            )
            for row in rows
        }
    return {
        f"MBPP/{row['task_id']}": Program(
            row["code"], tuple(row["test_list"]), row["test_setup_code"], timeout_seconds=GOLD_SECONDS
        )
        for row in rows
    }


def all_golds() -> dict[str, Program]:
    golds = gold_programs(HUMANEVAL) | gold_programs(MBPP)
    assert len(golds) == 164 + 974
    return golds


def failures(golds: dict[str, Program], tier: str) -> dict[str, tuple[str, str]]:
    report = check_sandbox(tier, list(golds.values()))["golds"]
    names = list(golds)
    assert report["total"] == len(golds)
    return {names[failed["index"]]: (failed["status"], failed["message"]) for failed in report["failed"]}


@pytest.mark.parametrize("tier", TIERS)
def test_every_gold_passes(tier):
    assert failures(all_golds(), tier) == {}


def test_every_gold_is_judged_out_of_the_programs_reach():
    golds = all_golds()
    checks = {name: checks_of(program.asserts, program.harness) for name, program in golds.items()}
    harnesses = {name: check for name, made in checks.items() for check in made if isinstance(check, Harness)}
    assert all(check.program_names is not None for check in harnesses.values())
    assert len(harnesses) == 14  # 13 of HumanEval's and MBPP/596 need a second process; the rest are comparisons


@pytest.mark.parametrize("tier", TIERS)
def test_a_wrong_gold_fails(tier):
    """Each program with the next one's tests: names do not fit, or values do not."""
    golds = list(gold_programs(MBPP).values())[:40]
    swapped = [Program(one.code, other.asserts) for one, other in itertools.pairwise(golds)]
    assert check_sandbox(tier, swapped)["golds"]["passed"] == 0


@pytest.mark.parametrize("tier", TIERS)
def test_a_run_costs_under_100_ms_in_the_median(tier):
    program = Program("def f(x):\n    return x", ("assert f(1) == 1",))
    seconds = []
    for _ in range(21):
        started = time.perf_counter()
        assert outcome_of(program, tier_of(tier), Limits()).status == "pass"
        seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) < 0.1
