"""Many adapters trained at once: each is the one that it would have become alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import causal_task

from lora_ns.config import RunConfig, check, merge
from lora_ns.config.experiment_file import MAX_MEMBERS
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.errors import Interrupted, LoraNsError, TrainingError
from lora_ns.store.artifact import is_finished, read_record
from lora_ns.store.failures import failure_of
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.multi_adapter import loop
from lora_ns.training.multi_adapter.grouping import groups_of, why_alone
from lora_ns.training.multi_adapter.layout import Layout
from lora_ns.training.multi_adapter.members import Member
from lora_ns.training.multi_adapter.runner import train_all
from lora_ns.training.signals import Interruption
from lora_ns.training.train import train
from lora_ns.workflow.pipeline import make_adapters
from lora_ns.workflow.planning.devices import PROCESSOR
from lora_ns.workflow.planning.estimator import Estimator
from lora_ns.workflow.planning.memory import group_bytes
from lora_ns.workflow.planning.workload import workload_of

LORA = {"method": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
EVA = {"init_lora_weights": "eva", "calibration_rows": 16, "r": 2}


def causal(model: Path, peft: dict[str, Any], **changes: Any) -> RunConfig:
    training = {"max_steps": 6, "global_batch_size": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    content = causal_task(model, peft={**LORA, **peft}, training={**training, **changes.pop("training", {})})
    return check(merge(content, changes), "test")


def classes(model: Path, peft: dict[str, Any], **changes: Any) -> RunConfig:
    for split in ("train", "test"):
        rows = [{"a": f"text {'x' * (i % 5)} {i}", "b": "other", "label": i % 3 % 2} for i in range(20)]
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "task_name": "pairs",
        "task_type": "classification",
        "model": {"name_or_path": str(model)},
        "peft": {**LORA, **peft, "target_modules": ["query", "value", "dense"]},
        "dataset": {"name": {"train": "train.jsonl", "test": "test.jsonl"}, "text_columns": ["a", "b"],
                    "labels": ["no", "yes"]},
        "training": {"max_steps": 4, "global_batch_size": 8, "learning_rate": 1e-2},
    }  # fmt: skip
    return check(merge(content, changes), "test")


def ready(configs: list[RunConfig]) -> Store:
    store = Store()
    for config in configs:
        fetch(config.dataset, store)
        tokenize(Run(config, store))
    return store


def together(configs: list[RunConfig], store: Store, largest: int = MAX_MEMBERS) -> dict[str, Path | LoraNsError]:
    found: dict[str, Path | LoraNsError] = {}

    def done(run: Run, outcome: Path | LoraNsError) -> None:
        found[run.name] = outcome

    groups = groups_of([Run(config, store) for config in configs], largest)
    train_all(groups, done, quiet=True)
    return found


def distance(first: Path, second: Path) -> float:
    """Norm of the difference of two adapters, relative to the norm of the first."""
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    total = sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5
    return total / sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


def check_as_if_alone(configs: list[RunConfig], store: Store) -> None:
    """Trains the configs at once and each alone, and compares adapters, histories, orders."""
    assert len(groups_of([Run(config, store) for config in configs], 8)) == 1
    found = together(configs, store)
    Path("results/adapters").rename("fused")
    for config in configs:
        run = Run(config, store).name
        assert found[run] == store.adapter(run), found[run]
        record = read_record(Path("fused") / run)
        assert sorted(record["circumstances"]["fused_with"]) == sorted(Run(config, store).name for config in configs)
        alone = train(Run(config, store), quiet=True)
        assert distance(alone, Path("fused") / run) < 1e-4
        settings = [json.loads((folder / "adapter_config.json").read_text()) for folder in (alone, Path("fused") / run)]
        assert settings[0] == settings[1]
        curves = [
            [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
            for folder in (alone, Path("fused") / run)
        ]
        assert [line.keys() for line in curves[0]] == [line.keys() for line in curves[1]]
        for key in curves[0][0]:
            assert [line[key] for line in curves[0]] == pytest.approx([line[key] for line in curves[1]], rel=2e-4), key
        said = read_record(alone)
        for key in ("parameters", "steps", "inputs", "config"):
            assert said[key] == record[key], key
        assert said["training"]["order_sha256"] == record["training"]["order_sha256"]
        assert said["training"]["tokens_seen"] == record["training"]["tokens_seen"]


def keep_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for models that cannot read rows as one."""
    monkeypatch.setattr("lora_ns.training.setup.reads_flat", lambda *_: False)


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dropout": {"lora_dropout": 0.2},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora with dropout": {"use_dora": True, "lora_dropout": 0.2},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa with dropout": {"init_lora_weights": "pissa", "lora_dropout": 0.3},
    "olora": {"init_lora_weights": "olora"},
    "eva": EVA,
}


@pytest.mark.parametrize("method", METHODS)
def test_two_seeds_of_a_method(workplace: Path, tiny_causal: Path, method: str) -> None:
    configs = [causal(tiny_causal, METHODS[method], seed=seed) for seed in (0, 1)]
    check_as_if_alone(configs, ready(configs))


def test_where_memory_is_short_fewer_are_trained_at_once(workplace: Path, tiny_causal: Path) -> None:
    configs = [causal(tiny_causal, METHODS["lora"], seed=seed) for seed in (0, 1, 2)]
    store = ready(configs)
    steps = [Estimator(store).step(Run(config, store), workload_of(Run(config, store), []).shape) for config in configs[:2]]
    found: dict[str, Path | LoraNsError] = {}
    runs = [Run(config, store) for config in configs]
    make_adapters(
        runs, lambda run, outcome: found.update({run.name: outcome}), max_memory=group_bytes(steps, PROCESSOR), quiet=True
    )
    beside = [read_record(found[Run(c, store).name])["circumstances"].get("fused_with") for c in configs]
    names = [Run(config, store).name for config in configs]
    assert beside == [names[:2], names[:2], None]


def test_a_mix_of_all_that_members_may_differ_in(workplace: Path, tiny_causal: Path) -> None:
    def config(method: str, seed: int, peft: dict[str, Any] | None = None, **training: Any) -> RunConfig:
        return causal(tiny_causal, {**METHODS[method], **(peft or {})}, seed=seed, training=training)

    configs = [
        config("lora", 0, {"r": 2, "lora_alpha": 32}, learning_rate=1e-3),
        config("dropout", 1, {"target_modules": ["q_proj", "v_proj"]}, weight_decay=0.1),
        config("rslora", 2, max_grad_norm=0.05),
        config("dora", 3, lr_scheduler_type="linear", warmup_steps=0.5),
        config("pissa", 4, {"rank_pattern": {"q_proj": 3}}, lr_scheduler_type="constant"),
        config("olora", 5, max_grad_norm=0.0),
        config("eva", 6),
        config("dora with dropout", 7),
    ]
    check_as_if_alone(configs, ready(configs))


def test_classifiers_with_a_head_of_each_ones_own(workplace: Path, tiny_encoder_without_dropout: Path) -> None:
    configs = [
        classes(tiny_encoder_without_dropout, peft, seed=seed)
        for seed, peft in enumerate([{}, {"lora_dropout": 0.2, "r": 2}, {"use_dora": True}])
    ]
    check_as_if_alone(configs, ready(configs))


def test_epochs_are_counted_in_shares_as_for_a_run_alone(workplace: Path, tiny_encoder_without_dropout: Path) -> None:
    """Twenty rows are two and a half batches of eight, five shares of four."""
    changes = {"training": {"per_device_train_batch_size": 4}}
    configs = [classes(tiny_encoder_without_dropout, {}, seed=seed, **changes) for seed in (0, 1)]
    check_as_if_alone(configs, ready(configs))


def test_layers_that_cannot_be_shared_are_trained_alone(workplace: Path, tiny_causal: Path) -> None:
    configs = [causal(tiny_causal, {"target_modules": ["q_proj", "lm_head"]}, seed=seed) for seed in (0, 1)]
    store = ready(configs)
    found = together(configs, store)
    for config in configs:
        folder = found[Run(config, store).name]
        assert isinstance(folder, Path), folder
        assert "fused_with" not in read_record(folder)["circumstances"]


@pytest.fixture(scope="session")
def tiny_encoder_without_dropout(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "calm-encoder"
    shutil.copytree(tiny_encoder, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"gradient_checkpointing": True}},
        {"training": {"label_smoothing_factor": 0.1}},
        {"training": {"train_sampling_strategy": "random"}},
        {"training": {"per_device_train_batch_size": 8}},
        {"dataset": {"format": "text", "text_columns": ["answer"], "prompt_template": None, "response_template": None},
         "evaluation": {"benchmarks": []}},
    ],
    ids=["checkpointing", "label smoothing", "random batches", "one share", "text"],
)  # fmt: skip
def test_settings_that_members_share(workplace: Path, tiny_causal: Path, changes: dict[str, Any]) -> None:
    configs = [causal(tiny_causal, {}, seed=seed, **changes) for seed in (0, 1)]
    check_as_if_alone(configs, ready(configs))


@pytest.mark.parametrize(
    ("way", "method"),
    [(way, method) for way in ("pieces", "factors") for method in ("dropout", "pissa", "pissa with dropout")]
    + [("factors", "dora")],
)
def test_every_way_through_a_layer_gives_what_a_run_alone_does(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, way: str, method: str
) -> None:
    """Small layers take the members' own weights, larger ones and GPUs the others."""
    from lora_ns.training.multi_adapter import layers

    monkeypatch.setattr(layers, "way_of", lambda *_: way)
    configs = [causal(tiny_causal, METHODS[method], seed=2), causal(tiny_causal, METHODS["lora"], seed=3)]
    check_as_if_alone(configs, ready(configs))


def test_what_only_a_run_alone_needs_is_not_imported() -> None:
    """transformers' Trainer, which takes a third of a second."""
    words = [
        "import sys, torch, lora_ns.training.arguments, lora_ns.training.multi_adapter.loop",
        "from lora_ns.training.multi_adapter import members",
        "members.parameters_with_decay(torch.nn.Linear(2, 2), 0.0)",
        "print('transformers.trainer' in sys.modules)",
    ]
    done = subprocess.run([sys.executable, "-c", "; ".join(words)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_the_smallest_layers_have_weights_of_each_members_own() -> None:
    from lora_ns.training.multi_adapter.layers import LowRank, way_of

    def way(size: int, dtype: torch.dtype = torch.float32, **settings: Any) -> str:
        part = LowRank(torch.nn.Parameter(torch.zeros(2, size)), torch.nn.Parameter(torch.zeros(size, 2)), 1.0, **settings)
        return way_of(torch.nn.Linear(size, size, dtype=dtype), [part])

    assert way(256) == "weights"
    assert way(512) == way(256, dropout=0.1) == "pieces"
    assert way(512, magnitude=torch.nn.Parameter(torch.ones(512))) == "weights"
    assert way(256, torch.bfloat16) == way(8, dropout=0.1, magnitude=torch.nn.Parameter(torch.ones(8))) == "factors"


@pytest.mark.parametrize("largest", [1, 260])
def test_members_that_go_through_the_base_after_one_another(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(loop, "LARGEST_PASS", largest)
    passes: list[int] = []
    join = Layout.join
    monkeypatch.setattr(Layout, "join", lambda self, members, *rest: passes.append(len(members)) or join(self, members, *rest))
    configs = [causal(tiny_causal, METHODS[name], seed=1) for name in ("dropout", "pissa", "lora", "dora")]
    check_as_if_alone(configs, ready(configs))
    assert max(passes) == 1 if largest == 1 else 1 < max(passes) < 4


def test_layers_may_be_computed_again_in_another_thread(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU's are, whose backward pass torch runs in a thread of its own."""
    backward = torch.Tensor.backward

    def elsewhere(self: torch.Tensor, *rest: Any, **named: Any) -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(backward, self, *rest, **named).result()

    configs = [causal(tiny_causal, {}, seed=seed, training={"gradient_checkpointing": True}) for seed in (0, 1)]
    store = ready(configs)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", elsewhere)
        found = together(configs, store)
    Path("results/adapters").rename("fused")
    for config in configs:
        run = Run(config, store).name
        assert found[run] == store.adapter(run)
        assert read_record(Path("fused") / run)["circumstances"]["fused_with"]
        assert distance(train(Run(config, store), quiet=True), Path("fused") / run) < 1e-4


@pytest.mark.parametrize("is_flat", [True, False], ids=["flat", "padded"])
def test_experts_that_see_positions_without_rows(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, is_flat: bool
) -> None:
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    shape = Qwen2MoeConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=24, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    Qwen2MoeForCausalLM(shape).save_pretrained("experts")
    for file in tiny_causal.glob("*token*"):
        shutil.copy(file, "experts")
    if not is_flat:
        keep_padding(monkeypatch)
    modules = ["q_proj", "o_proj", "shared_expert.down_proj"]
    configs = [causal(Path("experts").resolve(), {"target_modules": modules}, seed=seed) for seed in (0, 1, 2)]
    check_as_if_alone(configs, ready(configs))


@pytest.mark.parametrize(
    ("tokens", "passes"),
    [
        ([60] * 8, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ([900] * 5, [[0, 1], [2, 3], [4]]),
        ([5000, 10], [[0], [1]]),
        ([0, 9000, 10], [[0], [1], [2]]),
    ],
)
def test_passes_hold_what_keeps_a_core_busy(tokens: list[int], passes: list[list[int]]) -> None:
    assert loop.in_passes(tokens) == passes


def test_a_padded_joint_batch_gives_what_padded_batches_alone_do(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_padding(monkeypatch)
    configs = [causal(tiny_causal, METHODS[name], seed=seed) for seed, name in enumerate(["dropout", "pissa"])]
    check_as_if_alone(configs, ready(configs))


# -- each for itself ---------------------------------------------------------------------------------------------------


def test_a_member_whose_loss_is_no_number_fails_alone(workplace: Path, tiny_causal: Path) -> None:
    wild = causal(tiny_causal, {}, training={"learning_rate": 1e30, "max_grad_norm": 0.0})
    calm = [causal(tiny_causal, {}, seed=seed, training={"max_grad_norm": 0.0}) for seed in (1, 2)]
    store = ready([wild])
    found = together([wild, *calm], store)
    assert isinstance(found[Run(wild, store).name], TrainingError)
    assert "the loss became" in str(found[Run(wild, store).name])
    assert not store.adapter(Run(wild, store).name).exists()
    assert failure_of(store, Run(wild, store).name)["stage"] == "train"
    Path("results/adapters").rename("fused")
    for config in calm:
        alone = train(Run(config, store), quiet=True)
        assert distance(alone, Path("fused") / alone.name) < 1e-4


def test_what_is_there_already_is_not_trained_again(workplace: Path, tiny_causal: Path) -> None:
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1, 2)]
    store = ready(configs)
    first = train(Run(configs[1], store), quiet=True)
    before = (first / "record.json").stat().st_mtime_ns
    together(configs, store)
    assert (first / "record.json").stat().st_mtime_ns == before
    record = read_record(store.adapter(Run(configs[0], store).name))
    assert len(record["circumstances"]["fused_with"]) == 2


def stopped_at_step_3(
    configs: list[RunConfig], monkeypatch: pytest.MonkeyPatch, there: int = 0
) -> tuple[Store, list[str], list[dict[str, Any]]]:
    """Store, names, and outputs when nobody touched them, of runs that were then told to stop.

    there: the first so many have been trained alone before.
    """
    store = ready(configs)
    names = [Run(config, store).name for config in configs]
    for config in configs[:there]:
        train(Run(config, store), quiet=True)
    together(configs, store)
    expected = [read_record(store.adapter(name))["outputs"] for name in names]
    for name in names[there:]:
        shutil.rmtree(store.adapter(name))

    def told(self: Interruption) -> bool:
        asked.append(True)
        if len(asked) == 4:
            self.signal = signal.SIGTERM
        return self.signal is not None

    asked: list[bool] = []
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="step 3 of 6 is kept"):
        patched.setattr(Interruption, "__bool__", told)
        together(configs, store)
    return store, names, expected


def test_told_to_stop_it_goes_on_to_the_same_bits(workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = [causal(tiny_causal, METHODS[name], seed=seed) for seed, name in enumerate(["dropout", "dora", "pissa"])]
    store, names, expected = stopped_at_step_3(configs, monkeypatch)
    assert not any(is_finished(store.adapter(name)) for name in names)
    assert not any((store.scratch(name) / "lock").exists() for name in names)
    together(configs, store)
    records = [read_record(store.adapter(name)) for name in names]
    assert [record["outputs"] for record in records] == expected
    assert records[0]["circumstances"]["resumed_from"] == "checkpoint-3"
    assert not list(Path("results/scratch").iterdir())


def test_a_kill_leaves_nothing_that_counts_as_done_and_the_rest_is_made(workplace: Path, tiny_causal: Path) -> None:
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1)]
    store = ready(configs)
    child = os.fork()
    if not child:
        import lora_ns.training.multi_adapter.adamw as adamw

        step = adamw.MembersAdamW.step

        taken: list[int] = []

        def die(self, rates):
            step(self, rates)
            taken.append(len(rates))
            if len(taken) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        adamw.MembersAdamW.step = die  # type: ignore[method-assign]
        together(configs, store)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not any(is_finished(store.adapter(Run(config, store).name)) for config in configs)
    found = together(configs, store)
    assert all(isinstance(folder, Path) and is_finished(folder) for folder in found.values())


def save_only(numbers: set[int], error: BaseException, patched: pytest.MonkeyPatch) -> None:
    """Only these members can be saved; the error is raised for another."""
    save = Member.save

    def refuse(self: Member, started: Path, folder: Path) -> None:
        if self.number not in numbers:
            raise error
        save(self, started, folder)

    patched.setattr(Member, "save", refuse)


@pytest.mark.parametrize("fail", [False, True])
def test_what_could_not_be_saved_is_saved_from_the_checkpoint_next_time(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, fail: bool
) -> None:
    """Where saving one member fails, and where the process is killed between two members."""
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1, 2)]
    store, names, expected = stopped_at_step_3(configs, monkeypatch)
    error = OSError(28, "No space left on device") if fail else KeyboardInterrupt()
    with monkeypatch.context() as patched, nullcontext() if fail else pytest.raises(KeyboardInterrupt):
        save_only({0}, error, patched)
        found = together(configs, store)
        assert [isinstance(outcome, LoraNsError) for outcome in found.values()] == [False, True, True]
    assert [is_finished(store.adapter(name)) for name in names] == [True, False, False]
    before = (store.adapter(names[0]) / "record.json").stat().st_mtime_ns
    found = together(configs, store)
    records = [read_record(store.adapter(name)) for name in names]
    assert list(found) == names and [record["outputs"] for record in records] == expected
    assert records[2]["circumstances"]["resumed_from"] == ("checkpoint-6" if fail else "checkpoint-3")
    assert (store.adapter(names[0]) / "record.json").stat().st_mtime_ns == before
    assert not list(Path("results/scratch").iterdir())


def test_members_that_are_trained_later_than_others_go_on_from_a_checkpoint_of_their_own(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of those has its adapter by then: it was added to an experiment, and the process killed twice."""
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1, 2)]
    store, names, expected = stopped_at_step_3(configs, monkeypatch, there=1)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        save_only({0}, KeyboardInterrupt(), patched)
        together(configs, store)
    assert [is_finished(store.adapter(name)) for name in names] == [True, True, False]
    assert sorted(together(configs, store)) == sorted(names)
    records = [read_record(store.adapter(name)) for name in names]
    assert [record["outputs"] for record in records] == expected
    assert records[2]["circumstances"]["fused_with"] == names[1:]
    assert records[2]["circumstances"]["resumed_from"] == "checkpoint-3"
    assert not list(Path("results/scratch").glob("sweep-*"))


def test_members_that_are_there_are_not_trained_again_where_no_checkpoint_is(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1, 2)]
    store = ready(configs)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        save_only({0}, KeyboardInterrupt(), patched)
        together(configs, store)
    together(configs, store)
    records = [read_record(store.adapter(Run(config, store).name))["circumstances"] for config in configs]
    assert [len(record["fused_with"]) for record in records] == [3, 2, 2]


def test_a_checkpoint_that_cannot_be_written_is_said_of_all_members_and_none_is_trained_alone(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1)]
    store = ready(configs)

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 28864 vs 28756")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr("lora_ns.training.checkpoints.EVERY_SECONDS", 0)
    monkeypatch.setattr("lora_ns.training.multi_adapter.runner.train", lambda *_, **__: pytest.fail("it was trained alone"))
    found = list(together(configs, store).values())
    assert len(found) == 2 and all("cannot write a checkpoint in" in str(outcome) for outcome in found)


def test_a_member_that_cannot_be_saved_for_an_unknown_reason_fails_alone(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1, 2)]
    store = ready(configs)
    save_only({0, 2}, IndexError("odd"), monkeypatch)
    found = list(together(configs, store).values())
    assert [isinstance(outcome, Path) for outcome in found] == [True, False, True] and str(found[1]) == "IndexError: odd"


def test_a_run_that_breaks_in_an_unknown_way_does_not_stop_the_others(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1)]
    store = ready(configs)

    def broken(run: Run, *, quiet: bool) -> Path:
        if run.config.seed == 0:
            raise IndexError("of somebody else's")
        return train(run, quiet=quiet)

    monkeypatch.setattr("lora_ns.training.multi_adapter.runner.train", broken)
    found = list(together(configs, store, largest=1).values())
    assert str(found[0]) == "IndexError: of somebody else's" and isinstance(found[1], Path)
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(IndexError):
        together(configs[:1], store)


def test_memory_that_runs_out_is_answered_by_fewer_rows_of_each(workplace: Path, tiny_causal: Path, monkeypatch) -> None:
    configs = [causal(tiny_causal, {}, seed=seed) for seed in (0, 1)]
    store = ready(configs)
    join = loop.Layout.join

    def short_of_memory(self, members, batches, device):
        if len(batches[0]["row_lengths"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return join(self, members, batches, device)

    monkeypatch.setattr(loop.Layout, "join", short_of_memory)
    together(configs, store)
    how = read_record(store.adapter(Run(configs[0], store).name))["circumstances"]
    assert how["rows_at_once"] == 2 and len(how["memory"]) == 1


# -- who can be a member -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft": {"method": "ia3"}}, "peft.method ia3"),
        ({"peft": {"lora_bias": True}}, "peft.lora_bias"),
        ({"peft": {"bias": "all"}}, "peft.bias"),
        ({"training": {"optim": "adafactor"}}, "training.optim adafactor"),
        ({"training": {"lr_scheduler_type": "reduce_lr_on_plateau"}}, "training.lr_scheduler_type reduce_lr_on_plateau"),
        ({"training": {"neftune_noise_alpha": 5.0}}, "training.neftune_noise_alpha"),
        ({"training": {"gradient_checkpointing": True}, "peft": {"lora_dropout": 0.1}},
         "training.gradient_checkpointing with peft.lora_dropout"),
        ({"training": {"logging_steps": 5, "report_to": "none"}}, None),
    ],
)  # fmt: skip
def test_what_keeps_a_run_by_itself(tiny_causal: Path, changes: dict[str, Any], reason: str | None) -> None:
    peft = changes.get("peft", {})
    content = causal_task(tiny_causal, peft=peft if "method" in peft else {**LORA, **peft})
    assert why_alone(check(merge(content, {k: v for k, v in changes.items() if k != "peft"}), "test")) == reason


def test_groups_share_tokens_base_and_shape_and_keep_seeds_together(workplace: Path, tiny_causal: Path) -> None:
    def config(**changes: Any) -> RunConfig:
        return causal(tiny_causal, changes.pop("peft", {}), **changes)

    rates = [config(seed=seed, training={"learning_rate": rate}) for rate in (1e-2, 1e-3, 1e-4) for seed in (0, 1)]
    longer = config(training={"max_steps": 7})
    other = config(dataset={"max_length": 60})
    rates, (longer, other) = ([Run(one, Store()) for one in configs] for configs in (rates, (longer, other)))
    groups = groups_of([*rates, longer, other], 3)
    assert sorted(map(len, groups)) == [1, 1, 3, 3]
    assert all(len({member.config.seed for member in group}) == 1 for group in groups if len(group) == 3)
    assert max(map(len, groups_of(rates, 4))) == 3, "even groups rather than one of four and one of two"


def test_a_base_with_dropout_of_its_own_is_not_shared(workplace: Path, tiny_encoder: Path) -> None:
    configs = [classes(tiny_encoder, {}, seed=seed) for seed in (0, 1)]
    store = ready(configs)
    found = together(configs, store)
    for config in configs:
        assert found[Run(config, store).name] == store.adapter(Run(config, store).name)
        assert "fused_with" not in read_record(store.adapter(Run(config, store).name))["circumstances"]
