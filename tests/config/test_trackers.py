from __future__ import annotations

from pathlib import Path

import pytest
from support import causal_task

from lora_ns.config import RunConfig, check, trackers
from lora_ns.errors import ConfigError
from lora_ns.models.machine import check_machine
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.multi_adapter.grouping import why_alone
from lora_ns.workflow.pipeline import make_adapter


def config(report_to: object) -> RunConfig:
    training = {"max_steps": 1, "report_to": report_to}
    return check(causal_task("builtin:tiny-llama", training=training), "task.yaml")


@pytest.mark.parametrize("report_to", ["none", "all", [], None])
def test_no_tracker_is_needed(report_to: object) -> None:
    check_machine(config(report_to))


def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        check_machine(config(["tensorboard", "wandb"]))
    text = str(caught.value)
    assert "tensorboard is not installed; `pip install tensorboard`" in text and "`pip install wandb`" in text
    check_machine(config("wandb"), training=False)  # evaluating reports to nobody


def test_an_unknown_tracker_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"there is no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        check_machine(config("tensorbord"))


def test_the_names_are_those_that_transformers_knows() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(trackers.PACKAGES) <= set(INTEGRATION_TO_CALLBACK)


def test_tensorboard_keeps_a_runs_curve_and_the_adapter_is_the_same(workplace: Path, tiny_causal: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def trained(root: str, report_to: str) -> bytes:
        reporting = check(causal_task(tiny_causal, training={"max_steps": 3, "report_to": report_to}), "task.yaml")
        folder = make_adapter(Run(reporting, Store(Path(root))), quiet=True)
        return (folder / "adapter_model.safetensors").read_bytes()

    reported = trained("a", "tensorboard")
    (folder,) = Path("a/logs/tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert reported == trained("b", "none")


def test_a_run_that_reports_is_trained_by_itself(workplace: Path, tiny_causal: Path) -> None:
    """Members of a sweep have no Trainer that could report."""
    assert why_alone(config("wandb")) == why_alone(config("all")) == "training.report_to"
    assert why_alone(config("none")) is None and why_alone(config([])) is None
