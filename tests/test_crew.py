"""A sweep shared out over cores: each part in a process of its own, every adapter the one that its run would have alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from support import causal_task

from lora_ns import crew
from lora_ns.chain import make_adapters
from lora_ns.config import RunConfig, check, merge
from lora_ns.store import Store, exists, read_record
from lora_ns.train import train

LORA = {"method": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}


def config(model: Path, seed: int, **training: Any) -> RunConfig:
    steps = {"max_steps": 6, "global_batch_size": 8, "learning_rate": 1e-2, **training}
    return check(merge(causal_task(model, peft=LORA, training=steps), {"seed": seed}), "test")


def lora_ns_train(configs: list[RunConfig], *words: str, cores: int = 2) -> subprocess.Popen[str]:
    store = Store()
    named = [word for one in configs for word in ("--config", str(store.write_run_file(one)))]
    return subprocess.Popen(
        [sys.executable, "-m", "lora_ns", "train", "--quiet", *words, *named],
        env={**os.environ, "OMP_NUM_THREADS": str(cores)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def far(first: Path, second: Path) -> float:
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    total = sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5
    return total / sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


def test_each_process_trains_a_part_on_cores_of_its_own(workplace: Path, tiny_causal: Path) -> None:
    configs = [config(tiny_causal, seed) for seed in range(5)]
    status, out, err = said(lora_ns_train(configs))
    store = Store()
    folders = [store.adapter(store.run_name(one)) for one in configs]
    assert status == 0 and sorted(out.split()) == sorted(map(str, folders)), err
    records = [read_record(folder)["circumstances"] for folder in folders]
    assert [len(record["fused_with"]) for record in records] == [3, 3, 3, 2, 2]
    assert {record["hardware"]["threads"] for record in records} == {1}
    Path("results/adapters").rename("shared")
    for one, folder in zip(configs, folders, strict=True):
        assert far(train(one, store, quiet=True), Path("shared") / folder.name) < 1e-4
    assert not list(Path("results/scratch").iterdir())


def test_a_run_that_fails_is_told_of_and_the_others_are_there(workplace: Path, tiny_causal: Path) -> None:
    configs = [config(tiny_causal, seed, learning_rate=1e30 if seed == 3 else 1e-2) for seed in range(4)]
    status, out, err = said(lora_ns_train(configs))
    run = Store().run_name(configs[3])
    assert status == 1 and len(out.split()) == 3
    assert f"{run}: the loss became nan" in err and "1 of 4 runs failed" in err and "Traceback" not in err


def test_of_a_trial_a_loss_that_is_no_number_is_a_result(workplace: Path, tiny_causal: Path) -> None:
    configs = [config(tiny_causal, seed, learning_rate=1e30 if seed == 3 else 1e-2) for seed in range(4)]
    status, out, err = said(lora_ns_train(configs, "--trial"))
    assert status == 0 and len(out.split()) == 4, err
    folder = Store().adapter(Store().run_name(configs[3]))
    assert "nan" in json.loads((folder / "record.json").read_text())["diverged"]


def test_told_to_stop_all_keep_a_checkpoint_and_go_on_to_the_same_bits(workplace: Path, tiny_causal: Path) -> None:
    store, configs = Store(), [config(tiny_causal, seed, max_steps=60) for seed in range(4)]
    folders = [store.adapter(store.run_name(one)) for one in configs]
    assert said(lora_ns_train(configs))[0] == 0
    expected = [read_record(folder)["outputs"] for folder in folders]
    for folder in folders:
        subprocess.run(["rm", "-r", folder], check=True)
    process = lora_ns_train(configs)
    until(lambda: len(list(Path("results/scratch").glob("*/progress.json"))) == 4, process)
    process.send_signal(signal.SIGTERM)
    status, _, err = said(process)
    assert status == 75 and "stopped by SIGTERM" in err and "Traceback" not in err
    assert not any(map(exists, folders)) and len(list(Path("results/scratch").glob("sweep-*/checkpoint-*"))) == 2
    assert said(lora_ns_train(configs))[0] == 0
    assert [read_record(folder)["outputs"] for folder in folders] == expected
    assert all(read_record(folder)["circumstances"]["resumed_from"] for folder in folders)


@pytest.mark.parametrize("cores", [2, 1])
def test_called_again_what_was_begun_is_gone_on_with(workplace: Path, tiny_causal: Path, cores: int) -> None:
    """Also where a part has ended before, and where there are fewer cores by now."""
    store, configs = Store(), [config(tiny_causal, seed, max_steps=400) for seed in range(3)]
    folders = [store.adapter(store.run_name(one)) for one in configs]
    process = lora_ns_train(configs)
    until(lambda: exists(folders[2]), process)
    process.send_signal(signal.SIGTERM)
    status, _, err = said(process)
    assert status == 75, err
    first = (folders[2] / "record.json").stat().st_mtime_ns
    status, _, err = said(lora_ns_train(configs, cores=cores))
    assert status == 0, err
    how = [read_record(folder)["circumstances"] for folder in folders[:2]]
    assert all(one["resumed_from"] and len(one["fused_with"]) == 2 for one in how)
    assert {one["hardware"]["threads"] for one in how} == {1}
    assert (folders[2] / "record.json").stat().st_mtime_ns == first
    assert not list(Path("results/scratch").iterdir())


def test_nobody_trains_on_where_the_first_process_was_killed(workplace: Path, tiny_causal: Path) -> None:
    process = lora_ns_train([config(tiny_causal, seed, max_steps=10_000) for seed in range(2)])
    until(lambda: len(list(Path("results/scratch").glob("*/progress.json"))) == 2, process)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_what_a_killed_process_left_is_trained_by_itself(workplace: Path, tiny_causal: Path) -> None:
    configs = [config(tiny_causal, seed, max_steps=60) for seed in range(3)]
    process = lora_ns_train(configs)
    until(lambda: len(list(Path("results/scratch").glob("*/progress.json"))) == 3, process)
    psutil.Process(process.pid).children()[1].kill()
    status, out, err = said(process)
    assert status == 0 and len(out.split()) == 3 and "was ended by SIGKILL; they are trained here" in err, err


def test_a_note_of_an_earlier_failure_is_not_told_again(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, configs = Store(), [config(tiny_causal, seed, max_steps=1) for seed in range(2)]
    for one in configs:
        note = store.failure(store.run_name(one))
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"reason": "long ago", "stage": "train"}))
    monkeypatch.setattr(crew.sys, "executable", shutil.which("false"))  # which ends without a word
    found: list[Any] = []
    make_adapters(configs, store, lambda _, outcome: found.append(outcome), quiet=True, cores=2)
    assert all(isinstance(outcome, Path) and exists(outcome) for outcome in found) and len(found) == 2


def test_a_script_of_the_users_is_not_taken_for_a_module(workplace: Path, tiny_causal: Path) -> None:
    Path("random.py").write_text("raise SystemExit('my own script')\n")
    configs = [config(tiny_causal, seed, max_steps=1) for seed in range(2)]
    store = Store()
    found: list[Any] = []
    make_adapters(configs, store, lambda _, outcome: found.append(outcome), quiet=True, cores=2)
    assert all(map(exists, found)) and {
        read_record(folder)["circumstances"]["hardware"]["threads"] for folder in found
    } == {1}
    assert all("fused_with" not in read_record(folder)["circumstances"] for folder in found), "each in its own process"


def test_large_bases_and_stores_elsewhere_are_not_shared_out(workplace: Path, tiny_causal: Path) -> None:
    base = Path("base")
    base.mkdir()
    (base / "config.json").write_text("{}")
    asked = config(base.resolve(), 0)
    assert not crew._is_small(asked, Store()), "no weights that can be seen"
    with (base / "pytorch_model.bin").open("wb") as file:
        file.truncate(crew.LARGEST_BASE + 1)
    assert not crew._is_small(asked, Store())
    assert crew._is_small(config(tiny_causal, 0), Store()) and not crew._is_small(
        config(tiny_causal, 0), Store(Path("x"))
    )


@pytest.mark.parametrize(
    ("environment", "launched", "device", "cores"),
    [
        ({"OMP_NUM_THREADS": "3"}, 1, None, 3),
        ({"OMP_NUM_THREADS": ""}, 1, None, len(os.sched_getaffinity(0))),
        ({"OMP_NUM_THREADS": "3"}, 2, None, 1),
        ({"OMP_NUM_THREADS": "3"}, 1, "/dev/nvidiactl", 1),
    ],
)
def test_how_many_cores_there_are_to_share(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], launched: int, device: str | None, cores: int
) -> None:
    for name, value in {**environment, "WORLD_SIZE": str(launched), "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(crew.Path, "exists", lambda path: str(path) == device)
    assert crew.cores_here() == cores


@pytest.mark.parametrize("limits", [{"max_members": 1}, {"max_memory": 2**40}, {"cores": 1}, {"large": True}], ids=str)
def test_what_is_not_shared_out(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]
) -> None:
    monkeypatch.setattr(crew, "_train", lambda *_, **__: pytest.fail("shared out"))
    if limits.pop("large", False):
        monkeypatch.setattr(crew, "LARGEST_BASE", 1000)
    found: list[Any] = []
    configs = [config(tiny_causal, seed, max_steps=1) for seed in range(2)]
    make_adapters(configs, Store(), lambda _, outcome: found.append(outcome), quiet=True, **{"cores": 4, **limits})
    assert all(map(exists, found)) and len(found) == 2
