"""One training run, killed again and again, against the same run left alone: the adapter's bytes have to be the same.

    python benchmarks/chaos.py --kills 30 --seed 0

Each try is a process of its own that is killed (SIGKILL, or told to stop by SIGTERM) after a random time, or while it
writes a checkpoint; the next try goes on where it was.  A run that gets to its end is compared, and begun anew until all
kills are done.  Exit status 1 where a byte differs, or where the time is up.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lora_ns.config import RunConfig, load_config
from lora_ns.errors import LoraNsError
from lora_ns.models.imports import prepare_imports
from lora_ns.store.artifact import is_finished, read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_adapter, make_tokens

SETTINGS = {"max_steps": 40, "save_strategy": "steps", "save_steps": 3, "logging_steps": 1}


def checksums(config: RunConfig, store: Store) -> dict[str, str]:
    """File of the adapter -> its sha256."""
    outputs = read_record(store.adapter(Run(config, store).name))["outputs"]
    return {name: facts["sha256"] for name, facts in outputs.items()}


def begin(config: RunConfig, store: Store) -> int:
    """Trains in a forked process; returns its number.  Libraries are imported already, so a try costs its steps only; and
    this process never computes, as threads of torch's do not outlive a fork.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        make_adapter(Run(config, store), quiet=True)
        status = 0
    except LoraNsError as error:
        status = error.exit_status
        if status != 75:
            print(error, file=sys.stderr)
    finally:
        os._exit(status)


def strike(child: int, due: Callable[[], bool], how: signal.Signals) -> tuple[bool, int]:
    """(whether it was struck before it ended by itself, exit status)"""
    while not due():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.0005)
    os.kill(child, how)
    return True, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def after(seconds: float) -> Callable[[], bool]:
    """Due after some seconds from now."""
    at = time.monotonic() + seconds
    return lambda: time.monotonic() > at


def while_saving(scratch: Path) -> Callable[[], bool]:
    """Due as soon as a file of a checkpoint is being written."""
    return lambda: any((scratch / "saving").glob("*/*"))


def never() -> bool:
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, default=Path("configs/demo/word_problems.yaml"))
    parser.add_argument("--method", type=Path, default=Path("configs/methods/lora.yaml"))
    parser.add_argument("--minutes", type=float, default=20, help="give up after so long")
    asked = parser.parse_args()
    end, chance = time.monotonic() + 60 * asked.minutes, random.Random(asked.seed)
    config = load_config(asked.config, {"training": SETTINGS}, asked.method)
    prepare_imports(config)
    importlib.import_module("lora_ns.training.train")  # before the forks
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        if (models := Path("data/models")).is_dir():
            shutil.copytree(models, store.root / models)
        make_tokens(Run(config, store), quiet=True)
        began = time.monotonic()
        if os.waitpid(begin(config, store), 0)[1]:
            return 1
        whole, expected = time.monotonic() - began, checksums(config, store)
        adapter, scratch = store.adapter(Run(config, store).name), store.scratch(Run(config, store).name)
        shutil.rmtree(adapter)
        struck: Counter[str] = Counter()
        finished = 0
        while struck.total() < asked.kills or not is_finished(adapter):
            if time.monotonic() > end:
                print(f"time is up after {struck.total()} kills", file=sys.stderr)
                return 1
            writing, how = chance.random() < 1 / 3, chance.choice([signal.SIGKILL, signal.SIGTERM])
            due = while_saving(scratch) if writing else after(chance.uniform(0, whole))
            if struck.total() >= asked.kills:
                due = never
            was_struck, status = strike(begin(config, store), due, how)
            if was_struck and status != 0:
                struck[f"{how.name} {'while a checkpoint was written' if writing else 'at a random moment'}"] += 1
            elif status not in (0, 75):
                print(f"a try that nobody touched ended with status {status}", file=sys.stderr)
                return 1
            if is_finished(adapter):
                finished += 1
                if checksums(config, store) != expected:
                    print("the adapter differs from that of the run left alone", file=sys.stderr)
                    return 1
                if struck.total() < asked.kills:
                    shutil.rmtree(adapter)
        for what, count in sorted(struck.items()):
            print(f"{count:3d} x {what}")
        print(f"{finished} runs came to their end, all to the bytes of the run left alone:")
        print("\n".join(f"  {digest}  {name}" for name, digest in sorted(expected.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
