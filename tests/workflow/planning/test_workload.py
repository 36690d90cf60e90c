"""What a run has to go through: from records where there are some, else counted and guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import causal_task, sums, write_config

from lora_ns.config import RunConfig, check
from lora_ns.experiment.study import load_experiment
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_tokens
from lora_ns.workflow.planning.workload import Shape, count_rows, workload_of


def _config(model: Path | str = "builtin:tiny-llama", **sections: object) -> RunConfig:
    return check({**causal_task(model), **sections}, "task")


def _evaluations(config: RunConfig, store: Store):  # type: ignore[no-untyped-def]
    return [Run(config, store).evaluation(entry) for entry in config.evaluation.benchmarks]


def test_before_anything_is_made_rows_are_counted_and_lengths_guessed(workplace: Path) -> None:
    config, store = _config(training={"num_train_epochs": 2, "global_batch_size": 12, "learning_rate": 1e-3}), Store()
    work = workload_of(Run(config, store), _evaluations(config, store))
    assert (work.rows, work.steps, work.accumulation, work.measured) == (40, 8, 2, False)
    assert work.shape == Shape(6, 64, 192) and work.mean_length == 32
    (asked,) = work.questions
    assert (asked.kind, asked.rows, asked.new_tokens, asked.shape.rows) == ("generation", 10, 8, 10)
    assert not Path("data").exists()


def test_lengths_and_rows_are_those_of_the_tokens(workplace: Path, tiny_causal: Path) -> None:
    config, store = _config(tiny_causal), Store()
    make_tokens(Run(config, store), quiet=True)
    ledger = read_record(Run(config, store).tokens)["ledger"]["train"]
    work = workload_of(Run(config, store), [])
    assert work.measured and work.rows == 40 and work.steps == 3
    assert work.shape is not None and work.shape.length == ledger["longest"] < 64
    assert work.shape.supervised == round(8 * ledger["longest"] * ledger["supervised_rate"])
    assert work.tokens_per_step == pytest.approx(8 * ledger["tokens"] / 40)


def test_steps_are_those_that_training_took(study: Path) -> None:
    store = Store()
    for run in load_experiment(Path("experiment.yaml"), store).runs:
        assert workload_of(Run(run.config, store), []).steps == read_record(store.adapter(run.name))["steps"]


def test_a_base_model_is_not_trained(workplace: Path) -> None:
    work = workload_of(Run(_config(peft={"method": "none"}), Store()), [])
    assert work.shape is None and work.steps == 0 and work.tokens_per_step == 0


def test_processes_share_the_batch(workplace: Path) -> None:
    write_config(workplace / "ddp.yaml", {"distributed_type": "MULTI_CPU"})
    training = {"max_steps": 1, "global_batch_size": 32, "learning_rate": 1e-3}
    work = workload_of(Run(_config(training=training, launch={"config": "ddp.yaml", "processes": 8}), Store()), [])
    assert work.shape is not None and (work.shape.rows, work.accumulation) == (4, 1)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"name": "builtin:word_problems", "options": {"num_train": 70}}, 70),
        ({"name": "builtin:word_problems", "max_samples": 30}, 30),
        ({"name": "./sums"}, 40),
        ({"name": "./sums", "max_samples": 7}, 7),
        ({"name": "rows.json"}, None),
        ({"name": "rows.parquet"}, 5),
        ({"name": "someone/rows", "revision": "a"}, None),
        ({"name": "someone/rows", "revision": "a", "max_samples": 500}, 500),
    ],
    ids=lambda value: str(value),
)
def test_rows_are_counted_where_they_lie(workplace: Path, dataset: dict[str, object], expected: int | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    Path("rows.json").write_text(json.dumps(sums(5)))
    parquet.write_table(pa.Table.from_pylist(sums(5)), "rows.parquet")
    columns = {"prompt_template": "{question}", "response_template": "{answer}"}
    assert count_rows(_config(dataset={**columns, **dataset}).dataset, "train", Store()) == expected


def test_a_long_file_is_counted_by_its_beginning(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_ns.workflow.planning.workload.SAMPLE_BYTES", 500)
    columns = {"prompt_template": "{question}", "response_template": "{answer}"}
    counted = count_rows(_config(dataset={"name": "./sums", **columns}).dataset, "train", Store())
    assert counted is not None and abs(counted - 40) <= 4
