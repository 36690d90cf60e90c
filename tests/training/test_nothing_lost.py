"""Killed, told to stop, out of memory: the run goes on where it was, to the bits of one that nobody touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import causal_task

from lora_ns.config import RunConfig, check, merge
from lora_ns.config.schema import PeftSection
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.errors import Interrupted, LoraNsError, TrainingError
from lora_ns.store.artifact import is_finished, read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training import checkpoints
from lora_ns.training import train as train_module
from lora_ns.training.signals import Interruption
from lora_ns.training.train import train

LONG = {"training": {"max_steps": 12, "global_batch_size": 8, "per_device_train_batch_size": 4, "save_steps": 2,
                     "save_strategy": "steps", "learning_rate": 1e-2}}  # fmt: skip
"""Five steps an epoch, two shares a step, a checkpoint every other step."""


def task(model: Path, **changes: object) -> RunConfig:
    return check(merge(merge(causal_task(model, peft={"method": "lora", "r": 2, "lora_dropout": 0.1}), LONG), changes), "test")


def ready(config: RunConfig) -> Store:
    store = Store()
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    return store


def outcome(config: RunConfig, store: Store) -> tuple[dict[str, str], list[dict]]:
    """Checksums of the adapter's files, and its history."""
    folder = store.adapter(Run(config, store).name)
    sums = {name: facts["sha256"] for name, facts in read_record(folder)["outputs"].items()}
    return sums, [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture
def untouched(workplace: Path, tiny_causal: Path) -> tuple[RunConfig, Store, tuple[dict[str, str], list[dict]]]:
    """A run, its store without the adapter, and what it came to when nobody touched it."""
    config = task(tiny_causal)
    store = ready(config)
    train(Run(config, store), quiet=True)
    found = outcome(config, store)
    shutil.rmtree(workplace / "results")
    return config, store, found


def in_a_process(work: Callable[[], object]) -> int:
    """The work in a forked process, which ends with 0, or with 75 where it was told to stop; returns its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    with suppress(BaseException):
        try:
            work()
            status = 0
        except Interrupted as error:
            status = error.exit_status
    os._exit(status)


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def until(condition: Callable[[], bool], child: int, seconds: float = 60) -> bool:
    """Waits for the condition; False where the process ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.001)
    raise AssertionError("nothing happened")


def moments(scratch: Path) -> Iterator[tuple[str, Callable[[], bool], signal.Signals]]:
    """When to strike, and how."""
    yield "before the first checkpoint", lambda: (scratch / "lock").exists(), signal.SIGKILL
    yield "while a checkpoint is written", lambda: any((scratch / "saving").glob("*/*")), signal.SIGKILL
    yield "after a checkpoint", lambda: (scratch / "checkpoint-4").exists(), signal.SIGKILL
    yield "told to stop in an epoch", lambda: (scratch / "checkpoint-6").exists(), signal.SIGTERM
    yield "while another is written", lambda: any((scratch / "saving").glob("checkpoint-8/*")), signal.SIGKILL
    yield "told to stop near the end", lambda: (scratch / "checkpoint-10").exists(), signal.SIGTERM


def test_a_run_that_is_killed_again_and_again_comes_to_the_same_bits(untouched) -> None:
    config, store, expected = untouched
    scratch, struck = store.scratch(Run(config, store).name), []
    for name, moment, how in moments(scratch):
        child = in_a_process(lambda: train(Run(config, store), quiet=True))
        if until(moment, child):
            os.kill(child, how)
            struck.append(name)
        assert status_of(child) in (0, 75, -signal.SIGKILL)
        if is_finished(store.adapter(Run(config, store).name)):
            break
    assert len(struck) >= 4, struck
    train(Run(config, store), quiet=True)
    assert outcome(config, store) == expected
    resumed = read_record(store.adapter(Run(config, store).name))["circumstances"]["resumed_from"]
    assert resumed is not None and not scratch.exists()


@pytest.mark.parametrize("step", [1, 5, 7])
def test_told_to_stop_at_any_step_it_keeps_that_step(untouched, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an epoch, at its edge, in the next."""
    config, store, expected = untouched

    def told(self: Interruption) -> bool:
        asked.append(True)
        if len(asked) == step:
            self.signal = signal.SIGTERM
        return self.signal is not None

    asked: list[bool] = []
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match=f"step {step} of 12 is kept"):
        patched.setattr(Interruption, "__bool__", told)
        train(Run(config, store), quiet=True)
    run = Run(config, store).name
    assert not store.adapter(run).exists() and not (store.scratch(run) / "lock").exists()
    train(Run(config, store), quiet=True)
    assert outcome(config, store) == expected
    assert read_record(store.adapter(run))["circumstances"]["resumed_from"] == f"checkpoint-{step}"


def test_adalora_goes_on_with_the_ranks_it_was_moving(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 3, "deltaT": 1}
    config = task(tiny_causal).model_copy(update={"peft": PeftSection(method="adalora", **schedule)})
    store = ready(config)
    train(Run(config, store), quiet=True)
    expected = outcome(config, store)
    shutil.rmtree("results")
    asked: list[bool] = []

    def told(self: Interruption) -> bool:
        asked.append(True)
        if len(asked) == 6:
            self.signal = signal.SIGTERM
        return self.signal is not None

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Interruption, "__bool__", told)
        train(Run(config, store), quiet=True)
    train(Run(config, store), quiet=True)
    assert outcome(config, store) == expected


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(untouched) -> None:
    config, store, expected = untouched
    scratch = store.scratch(Run(config, store).name)
    child = in_a_process(lambda: train(Run(config, store), quiet=True))
    assert until(lambda: (scratch / "checkpoint-6").exists(), child)
    os.kill(child, signal.SIGKILL)
    status_of(child)
    damaged = sorted(scratch.glob("checkpoint-*"), key=checkpoints.step_of)[-1]
    content = bytearray((damaged / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "optimizer.pt").write_bytes(content)
    before = checkpoints.step_of(damaged) - 2
    train(Run(config, store), quiet=True)
    assert outcome(config, store) == expected
    assert read_record(store.adapter(Run(config, store).name))["circumstances"]["resumed_from"] == f"checkpoint-{before}"


def test_two_checkpoints_are_kept_and_one_cut_short_is_none(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        made = checkpoints.saving_place(tmp_path) / f"checkpoint-{step}"
        made.mkdir(parents=True)
        (made / "weights").write_text(str(step))
        checkpoints.seal(made, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    cut = checkpoints.saving_place(tmp_path) / "checkpoint-8"
    cut.mkdir(parents=True)
    (cut / "weights").write_text("8")
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-6" and not cut.exists()
    (tmp_path / "checkpoint-6/weights").unlink()
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-4"
    (tmp_path / "checkpoint-4/more").write_text("not listed")
    assert checkpoints.newest(tmp_path) is None


def test_a_signal_that_comes_while_a_run_is_saved_stops_before_the_next(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_ns.training.multi_adapter import runner

    configs = [task(tiny_causal, training={"optim": "adafactor"}, seed=seed) for seed in (0, 1)]  # not at once
    store, done = ready(configs[0]), []
    save = train_module.save_adapter

    def told_while_saving(run: Any, folder: Path, processes: Any) -> None:
        save(run, folder, processes)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_module, "save_adapter", told_while_saving)
    with pytest.raises(Interrupted, match="stopped by SIGTERM: what was trained is kept"):
        runner.train_all([[Run(config, store)] for config in configs], lambda _, outcome: done.append(outcome), quiet=True)
    assert done == [store.adapter(Run(configs[0], store).name)] and is_finished(done[0])
    assert not is_finished(store.adapter(Run(configs[1], store).name))


def test_a_full_disk_at_a_checkpoint_is_said_in_a_paragraph(untouched, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    config, store, _ = untouched

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LoraNsError, match=r"cannot write a checkpoint in .*: basic_ios::clear: iostream error \(\d+ MiB"):
        train(Run(config, store), quiet=True)


def test_what_another_process_made_meanwhile_is_not_trained_again(untouched, monkeypatch: pytest.MonkeyPatch) -> None:
    config, store, _ = untouched
    target = store.adapter(Run(config, store).name)

    @contextmanager
    def late(scratch: Path) -> Iterator[None]:
        target.mkdir(parents=True)
        (target / "record.json").write_text("{}")
        yield

    monkeypatch.setattr(train_module, "run_lock", late)
    monkeypatch.setattr(train_module, "prepare", lambda *_, **__: pytest.fail("it was trained"))
    assert train(Run(config, store), quiet=True) == target


def test_every_step_is_in_the_history_whatever_is_logged(untouched, tiny_causal: Path) -> None:
    config, store, (_, expected) = untouched
    rarely = task(tiny_causal, training={"logging_steps": 100, "logging_strategy": "epoch"})
    assert Run(rarely, store).name == Run(config, store).name
    train(Run(rarely, store), quiet=True)
    assert outcome(rarely, store)[1] == expected


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_that_runs_out_is_found_before_the_first_step_and_answered(untouched, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lora_ns.training import loss

    config, store, _ = untouched
    whole = loss.CausalLoss.__call__
    tried, models = [], list[Any]()

    def short_of_memory(self, model, inputs):
        if not models or models[-1]() is not model:
            assert all(earlier() is None for earlier in models), "what did not fit is still in memory"
            models.append(weakref.ref(model))
        tried.append((len(inputs["row_lengths"]), max(inputs["row_lengths"])))
        if len(inputs["row_lengths"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(self, model, inputs)

    monkeypatch.setattr(loss.CausalLoss, "__call__", short_of_memory)
    folder = train(Run(config, store), quiet=True)
    longest = max(length for _, length in tried)
    assert tried[:3] == [(4, longest), (2, longest), (1, longest)], "the longest rows come first"
    how = read_record(folder)["circumstances"]
    assert how["rows_at_once"] == 1 and how["accumulation"] == 8 and len(how["memory"]) == 2
    assert len(tried) == 3 + 12 * 8, "the same global batch"
    assert len(models) == 3


def test_fewer_rows_at_once_are_the_same_run(workplace: Path, tiny_causal: Path) -> None:
    def losses(size: int) -> list[float]:
        config = task(tiny_causal, peft={"lora_dropout": 0.0}, training={"per_device_train_batch_size": size})
        store = ready(config)
        train(Run(config, store), quiet=True)
        _, history = outcome(config, store)
        shutil.rmtree("results")
        return [line["loss"] for line in history]

    assert losses(1) == pytest.approx(losses(8), rel=1e-4)


def test_memory_that_holds_not_one_row_fails_with_what_to_change(untouched, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_ns.training import loss

    config, store, _ = untouched

    def no_memory(self, model, inputs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loss.CausalLoss, "__call__", no_memory)
    with pytest.raises(TrainingError, match="gradient_checkpointing"):
        train(Run(config, store), quiet=True)
    assert not store.adapter(Run(config, store).name).exists()
