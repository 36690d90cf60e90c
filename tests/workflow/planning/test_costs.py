"""What `lora-ns plan` left is what jobs ask for, and what a sweep's memory is held to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support import causal_task, write_config, write_study

from lora_ns.config import RunConfig, check, read_mapping
from lora_ns.experiment.study import load_experiment
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.dag_inputs import Dag
from lora_ns.workflow.jobs import parts_within
from lora_ns.workflow.planning import memory
from lora_ns.workflow.planning.costs import MEMORY_MARGIN, KnownCosts
from lora_ns.workflow.planning.devices import PROCESSOR
from lora_ns.workflow.planning.estimator import Estimator
from lora_ns.workflow.planning.plan import Plan, make_plan
from lora_ns.workflow.planning.workload import workload_of
from lora_ns.workflow.resources import START_MINUTES


def planned(experiment: Path) -> Plan:
    store = Store()
    return make_plan(load_experiment(experiment, store), store, PROCESSOR, Estimator(store))


def asked(dag: Dag, name: str, kind: str, run: str, **more: str) -> int:
    wildcards = SimpleNamespace(**({"job": run} if run in dag.jobs else {"run": run}), **more)
    return getattr(dag.commands, f"{kind}_resources")[name](wildcards, 1)


def test_jobs_ask_for_what_was_predicted_and_for_a_guess_before(
    tmp_path: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path / "study", tiny_causal)
    monkeypatch.chdir(tmp_path / "study")
    experiment = Path("experiment.yaml")
    before = Dag(str(experiment))
    name, run = next((name, run) for name, run in before.runs.items() if run.config.peft.method == "lora")
    assert run.config.needs_gpu, "a folder may hold any model"
    assert asked(before, "mem_mb", "training", name) == 16_000

    planned(experiment)
    assert asked(Dag(str(experiment)), "mem_mb", "training", name) == 16_000, "no GPU was named"
    write_config(experiment, {**read_mapping(experiment), "overrides": {"launch.gpu": "l4"}})
    known = Dag(str(experiment))
    mem, minutes = (asked(known, what, "training", name) for what in ("mem_mb", "runtime"))
    assert 6_400 < mem < 7_000 and START_MINUTES < minutes < START_MINUTES + 5
    evaluation = run.evaluations[0].name
    assert asked(known, "mem_mb", "evaluation", name, evaluation=evaluation) < 7_000


def test_costs_on_a_processor_are_the_predicted_peak_with_a_margin(workplace: Path) -> None:
    config, store = small_run(), Store()
    assert KnownCosts(store).training_cost(Run(config, store)) is None
    shape = workload_of(Run(config, store), []).shape
    assert shape is not None
    step = Estimator(store).step(Run(config, store), shape)
    cost = KnownCosts(store).training_cost(Run(config, store))
    assert step is not None and cost is not None and cost.minutes >= 1
    expected = MEMORY_MARGIN * memory.training_bytes(step, PROCESSOR) / 1e6
    assert cost.shared_mb + cost.own_mb == pytest.approx(expected, abs=2)
    other = small_run(r=5)
    assert KnownCosts(store).training_cost(Run(other, store)) is None, "nothing is traced here"


@pytest.mark.parametrize("damaged", ["null", "[3]", "{", '{"forward_backward": [[1, 2]]}', "{}"])
def test_a_damaged_prediction_is_made_anew_and_read_back_the_same(workplace: Path, damaged: str) -> None:
    config, store = small_run(), Store()
    shape = workload_of(Run(config, store), []).shape
    assert shape is not None
    made = Estimator(store).step(Run(config, store), shape)
    (file,) = store.root.glob("results/scratch/predicted/*.json")
    assert made is not None and Estimator(store, trace=False).step(Run(config, store), shape) == made
    file.write_text(damaged, encoding="utf-8")
    assert Estimator(store, trace=False).step(Run(config, store), shape) is None
    assert Estimator(store).step(Run(config, store), shape) == made


def small_run(**peft: int) -> RunConfig:
    task = causal_task("builtin:tiny-llama", peft={"method": "lora", **peft})
    return check(
        {**task, "dataset": {"name": "builtin:word_problems", "prompt_template": "{question}", "response_template": "{answer}"}},
        "t",
    )


def test_as_many_runs_are_trained_at_once_as_memory_allows(workplace: Path) -> None:
    store = Store()
    group = [Run(small_run(r=rank), store) for rank in (4, 8, 16, 4)]
    predictor = Estimator(store)
    steps = [predictor.step(run, workload_of(run, []).shape) for run in group]  # type: ignore[arg-type]
    of_two = memory.group_bytes(steps[:2], PROCESSOR)  # type: ignore[arg-type]
    alone = memory.training_bytes(steps[0], PROCESSOR)  # type: ignore[arg-type]
    assert memory.group_bytes(steps[:1], PROCESSOR) == alone < of_two < 2 * alone  # type: ignore[arg-type]
    assert parts_within(group, 100 * of_two) == [group]
    assert len(parts_within(group, of_two)[0]) == 2
    assert parts_within(group, 1) == [[run] for run in group]
