"""`lora-ns train` with several configs: each run's outcome is told, and the exit status says how all of them ended."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support import causal_task

from lora_ns.config import RunConfig, check, merge
from lora_ns.store.artifact import is_finished, read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

LORA = {"method": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}


def config(model: Path, seed: int, **training: Any) -> RunConfig:
    steps = {"max_steps": 6, "global_batch_size": 8, "learning_rate": 1e-2, **training}
    return check(merge(causal_task(model, peft=LORA, training=steps), {"seed": seed}), "test")


def lora_ns_train(configs: list[RunConfig], *words: str) -> subprocess.Popen[str]:
    store = Store()
    named = [word for one in configs for word in ("--config", str(Run(one, store).write_file()))]
    return subprocess.Popen(
        [sys.executable, "-m", "lora_ns", "train", "--quiet", *words, *named],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def test_a_run_that_fails_is_told_of_and_the_others_are_there(workplace: Path, tiny_causal: Path) -> None:
    configs = [config(tiny_causal, seed, learning_rate=1e30 if seed == 2 else 1e-2) for seed in range(3)]
    status, out, err = ended(lora_ns_train(configs))
    names = [Run(one, Store()).name for one in configs]
    assert status == 1 and [Path(line).name for line in out.split()] == names[:2]
    assert f"{names[2]}: the loss became nan" in err and "1 of 3 runs failed" in err and "Traceback" not in err


def test_of_a_trial_a_loss_that_is_no_number_is_a_result(workplace: Path, tiny_causal: Path) -> None:
    configs = [config(tiny_causal, seed, learning_rate=1e30 if seed == 1 else 1e-2) for seed in range(2)]
    status, out, err = ended(lora_ns_train(configs, "--trial"))
    assert status == 0 and len(out.split()) == 2, err
    folder = Store().adapter(Run(configs[1], Store()).name)
    assert "nan" in json.loads((folder / "record.json").read_text())["diverged"]


def test_told_to_stop_it_ends_with_75_and_goes_on_to_the_same_bits(workplace: Path, tiny_causal: Path) -> None:
    store, configs = Store(), [config(tiny_causal, seed, max_steps=60) for seed in range(3)]
    folders = [store.adapter(Run(one, store).name) for one in configs]
    assert ended(lora_ns_train(configs))[0] == 0
    expected = [read_record(folder)["outputs"] for folder in folders]
    shutil.rmtree("results/adapters")
    process = lora_ns_train(configs)
    end = time.monotonic() + 120
    while len(list(Path("results/scratch").glob("*/progress.json"))) < 3:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    status, _, err = ended(process)
    assert status == 75 and "stopped by SIGTERM" in err and "Traceback" not in err
    assert not any(map(is_finished, folders)) and len(list(Path("results/scratch").glob("sweep-*/checkpoint-*"))) == 1
    status, _, err = ended(lora_ns_train(configs))
    assert status == 0, err
    records = [read_record(folder) for folder in folders]
    assert [record["outputs"] for record in records] == expected
    assert all(record["circumstances"]["resumed_from"] for record in records)
    assert not list(Path("results/scratch").iterdir())
