"""Runs of one sweep, from run files to adapters, in three ways:  python benchmarks/sweep.py

    processes    one process a run, one after another: what a plain workflow does
    in turn      one process that trains one run after another
    fused        a command for each core, side by side as Snakemake starts them, that trains its share of them at once

The runs are the demo's word problems with the demo's LoRA: seeds x learning rates.  Interleaved and repeated; the figures are
wall and CPU seconds of everything, start-up included, and how far the fused adapters are from those trained alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from safetensors.torch import load_file

from lora_ns.config import RunConfig, load_config
from lora_ns.models.imports import prepare_imports
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_tokens

WAYS = ("processes", "in turn", "fused")
TRAIN = [sys.executable, "-m", "lora_ns", "train", "--quiet"]


def commands(way: str, files: list[Path]) -> list[list[str]]:
    """The command lines that make the adapters."""
    cores = min(len(os.sched_getaffinity(0)), len(files))
    ends = [len(files) * core // cores for core in range(cores + 1)]
    shares = [files[start:end] for start, end in pairwise(ends)]
    parts = {"processes": [[file] for file in files], "in turn": [files], "fused": shares}[way]
    at_once = str(len(files) if way == "fused" else 1)
    named = [[word for file in part for word in ("--config", str(file))] for part in parts]
    return [[*TRAIN, "--max-members", at_once, *words] for words in named]


def seconds_of(way: str, files: list[Path], folder: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of a way's command lines: side by side in a thread each, or one after another."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    threads = {**os.environ, "OMP_NUM_THREADS": "1"} if way == "fused" else None
    started = []
    for line in commands(way, files):
        started.append(subprocess.Popen(line, cwd=folder, env=threads, stdout=subprocess.DEVNULL))
        if way != "fused":
            started[-1].wait()
    assert all(process.wait() == 0 for process in started)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def distance(first: Path, second: Path) -> float:
    """Norm of the difference of two adapters, relative to the norm of the first."""
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    total = sum(float((a[name] - b[name]).double().square().sum()) for name in a) ** 0.5
    return total / sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=int, default=8)
    words.add_argument("--steps", type=int, help="of each run, for its own")
    words.add_argument("--batch", type=int, help="rows of a step, for its own")
    words.add_argument("--dropout", type=float, default=0.0, help="of LoRA; the demo has none")
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--ways", nargs="*", default=WAYS)
    given = words.parse_args()
    training = {"max_steps": given.steps, "global_batch_size": given.batch, "per_device_train_batch_size": given.batch}
    changes = {"training": {key: value for key, value in training.items() if value is not None}}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        if (models := Path("data/models")).is_dir():
            shutil.copytree(models, store.root / models)
        configs: list[RunConfig] = []
        for place in range(given.runs):
            rate = {
                "training": {**changes["training"], "learning_rate": [1e-3, 2e-3][place % 2]},
                "peft": {"lora_dropout": given.dropout},
            }
            task, method = Path("configs/demo/word_problems.yaml"), Path("configs/methods/lora.yaml")
            configs.append(load_config(task, {**rate, "seed": place // 2}, method))
        prepare_imports(*configs)
        make_tokens(Run(configs[0], store), quiet=True)
        files = [Run(config, store).write_file() for config in configs]
        adapters = [store.adapter(Run(config, store).name) for config in configs]
        figures: dict[str, list[tuple[float, float]]] = {way: [] for way in given.ways}
        for repeat in range(given.repeats):
            for way in given.ways if repeat % 2 == 0 else reversed(given.ways):
                figures[way].append(seconds_of(way, files, store.root))
                kept = Path(folder) / "kept" / way
                shutil.rmtree(kept, ignore_errors=True)
                for adapter in adapters:
                    shutil.move(adapter, kept / adapter.name)
        for way, found in figures.items():
            wall, cpu = (statistics.median(side) for side in zip(*found, strict=True))
            spread = " ".join(f"{value:.0f}" for value, _ in sorted(found))
            print(f"{way:10s}  wall {wall:6.1f} s ({spread})   CPU {cpu:6.1f} s")
        if {"processes", "fused"} <= set(given.ways):
            far = max(distance(Path(folder) / "kept/processes" / a.name, Path(folder) / "kept/fused" / a.name) for a in adapters)
            print(f"fused adapters differ from those trained alone by at most {far:.1e} of their norm")


if __name__ == "__main__":
    main()
