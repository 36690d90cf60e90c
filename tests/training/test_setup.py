"""One set-up for a run alone, a member of a group and the step that `lora-ns plan` profiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import causal_task

from lora_ns.config import RunConfig, check, merge
from lora_ns.data.batch_sampler import Share
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.models.base_model import load_base, make_deterministic
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.multi_adapter.runner import train_all
from lora_ns.training.setup import rows_and_collate, run_batches
from lora_ns.training.train import train
from lora_ns.workflow.planning.profile_step import set_up_step

STEPS = 4


def run_config(model: Path, seed: int, **changes: Any) -> RunConfig:
    peft = {"method": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": 0.1}
    training = {"max_steps": STEPS, "global_batch_size": 8, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
                "warmup_steps": 0, "max_grad_norm": 1.0}  # fmt: skip
    return check(merge(causal_task(model, peft=peft, training=training), {"seed": seed, **changes}), "test")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]


def losses_by_hand(config: RunConfig, store: Store) -> list[float]:
    """The run's steps on what `plan` profiles: its set-up, on a base with weights."""
    make_deterministic(config.seed)
    base = load_base(Run(config, store))
    make_deterministic(config.seed)
    setup = set_up_step(base, config)
    rows, _ = rows_and_collate(Run(config, store))
    loss, model = setup.loss(config), setup.model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.training.learning_rate, weight_decay=0.0)
    found = []
    make_deterministic(config.seed)
    for batch in run_batches(config, rows, Share(8)).steps(STEPS):
        inputs = setup.collate([rows[row] for row in batch])
        mean = loss(model, inputs).values.sum() / loss.count(inputs)
        mean.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(mean.detach()))
    return found


@pytest.mark.parametrize(
    ("changes", "is_padded"),
    [({}, False), ({}, True), ({"training": {"label_smoothing_factor": 0.1}}, False)],
    ids=["padding-free", "padded", "label smoothing"],
)
def test_a_run_with_dropout_has_the_same_losses_alone_in_a_group_and_as_it_is_profiled(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], is_padded: bool
) -> None:
    if is_padded:
        monkeypatch.setattr("lora_ns.training.setup.reads_flat", lambda *_: False)
    configs = [run_config(tiny_causal, seed, **changes) for seed in (0, 1, 2)]
    store = Store()
    fetch(configs[0].dataset, store)
    tokenize(Run(configs[0], store))
    found: list[Any] = []
    train_all([[Run(config, store) for config in configs]], lambda _, outcome: found.append(outcome), quiet=True)
    names = [Run(config, store).name for config in configs]
    assert read_record(found[1])["circumstances"]["fused_with"] == names
    in_a_group = losses(found[1])
    Path("results/adapters").rename("group")
    alone = losses(train(Run(configs[1], store), quiet=True))
    assert len(alone) == STEPS
    assert in_a_group == pytest.approx(alone, rel=1e-5)
    assert losses_by_hand(configs[1], store) == pytest.approx(alone, rel=1e-5)


def test_noise_on_embeddings_is_the_trainers_own(workplace: Path, tiny_causal: Path) -> None:
    """NEFTune's runs are padded and trained alone, so that the noise is as strong as transformers' Trainer makes it."""
    from lora_ns.training.multi_adapter.grouping import why_alone

    config = run_config(tiny_causal, 0, training={"neftune_noise_alpha": 5.0})
    assert why_alone(config) == "training.neftune_noise_alpha"
    store = Store()
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    assert read_record(train(Run(config, store), quiet=True))["circumstances"]["rows"] == "padded"
