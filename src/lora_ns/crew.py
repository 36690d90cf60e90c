"""A sweep shared out over a processor's cores: each part of its runs trained at once in a process with cores of its own.

A small base model leaves cores waiting for one another; runs have nothing to do with one another.  Never imports torch: the
processes that train do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from lora_ns.config import RunConfig
from lora_ns.errors import Interrupted, LoraNsError
from lora_ns.failure import failure_of
from lora_ns.fusing import begun_groups, evenly, groups_of
from lora_ns.models import folder_here, weight_bytes
from lora_ns.processes import Processes
from lora_ns.store import Store, exists
from lora_ns.training.interruption import noticing

LARGEST_BASE = 2**30
"""Bytes of weights up to which each process may have its own; with larger ones all cores are busy at one product anyway."""

POLL_SECONDS = 0.05

Done = Callable[[RunConfig, Path | LoraNsError], None]


def cores_here() -> int:
    """How many cores this process computes on, as torch would count; 1 where a GPU does the work or a launch shares runs."""
    on_gpu = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
    if sys.platform != "linux" or on_gpu or Processes.here().count > 1:
        return 1
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(said)) if said.isdigit() else len(os.sched_getaffinity(0))


def train_in_parts(
    configs: Sequence[RunConfig], store: Store, done: Done, *, cores: int, max_members: int, trial: bool
) -> list[RunConfig]:
    """Trains what can be shared out; returns the other runs.

    done: told of every run that was trained, its adapter's folder or why there is none.  trial: a loss that is not finite
    is a result.  Raises Interrupted where a process was told to stop.
    """
    waiting_names = {run for run in map(store.run_name, configs) if not exists(store.adapter(run))}

    def is_missing(config: RunConfig) -> bool:
        return store.run_name(config) in waiting_names

    left = [config for config in configs if not is_missing(config)]
    begun = begun_groups(configs, store, max_members)
    for group in groups_of(configs, store, max_members):
        waiting = list(filter(is_missing, group))
        if len(group) < 2 or not _is_small(group[0], store):
            left += waiting
            continue
        # of what is asked for, not of what is missing: a call after a broken one finds its checkpoints, with as many threads
        parts = evenly(group, min(cores, len(group)))
        threads = cores // len(parts)
        parts = _as_begun(group, [list(filter(is_missing, part)) for part in parts], begun)
        for start in range(0, len(parts), cores):
            _train(parts[start : start + cores], store, threads=threads, trial=trial)
        for config in waiting:
            run = store.run_name(config)
            note = failure_of(store, run)
            if exists(store.adapter(run)):
                done(config, store.adapter(run))
            elif note is not None:
                done(config, LoraNsError(note["reason"]))
            else:
                left.append(config)  # its process was killed, or another one is at it: by itself it says so
    return left


def _as_begun(
    asked: list[RunConfig], parts: list[list[RunConfig]], begun: list[list[RunConfig]]
) -> list[list[RunConfig]]:
    """The parts, but what was begun together as it was begun: by a call with another number of cores, or beside members
    of what is asked for whose adapters are there by now."""
    kept = [group for group in begun if group not in parts and all(config in asked for config in group)]
    rest = [[config for config in part if not any(config in group for group in kept)] for part in parts]
    return [part for part in [*kept, *rest] if part]


def _is_small(config: RunConfig, store: Store) -> bool:
    folder = folder_here(config.model, store)
    if folder is None or store.root.resolve() != Path.cwd():
        return False
    return 0 < weight_bytes(folder) <= LARGEST_BASE


def _train(parts: Sequence[Sequence[RunConfig]], store: Store, *, threads: int, trial: bool) -> None:
    """Each part in a process of its own, until all have ended.  Raises Interrupted where one was told to stop."""
    for part in parts:
        for config in part:
            store.failure(store.run_name(config)).unlink(missing_ok=True)  # what it says would be of an earlier try
    with noticing() as interruption, _running(parts, store, threads, trial) as processes:
        told = False
        while any(process.poll() is None for process, _ in processes):
            time.sleep(POLL_SECONDS)
            if not told and (interruption or any(_was_told(process) for process, _ in processes)):
                told = True
                for process, _ in processes:
                    process.terminate()
        if told or interruption or any(_was_told(process) for process, _ in processes):
            by = f" by {interruption.signal.name}" if interruption.signal else ""
            raise Interrupted(f"stopped{by}: what was trained is kept. Called again, the runs go on from there.")
        for (process, said), part in zip(processes, parts, strict=True):
            _show_what_broke(process, said, [store.run_name(config) for config in part])


@contextmanager
def _running(
    parts: Sequence[Sequence[RunConfig]], store: Store, threads: int, trial: bool
) -> Iterator[list[tuple[subprocess.Popen[bytes], IO[bytes]]]]:
    """The processes and what each says; they end with this one, however it ends."""
    processes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    with ExitStack() as held:
        for part in parts:
            words = [sys.executable, "-P", "-m", "lora_ns", "train", "--quiet", "--max-members", str(len(part))]
            words += ["--trial"] if trial else []
            for config in part:
                words += ["--config", str(store.run_file(store.run_name(config)))]
            said: IO[bytes] = held.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                words,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                stdout=subprocess.DEVNULL,
                stderr=said,
                preexec_fn=partial(_end_with, os.getpid()),
            )
            held.callback(_end, process)
            processes.append((process, said))
        yield processes


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait()


def _end_with(parent: int) -> None:
    """Has the kernel tell this process to stop, a checkpoint kept, when its parent is no more."""
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _was_told(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() == Interrupted.exit_status


def _show_what_broke(process: subprocess.Popen[bytes], said: IO[bytes], runs: list[str]) -> None:
    """On this process's own: an error that is no paragraph for a user, and that a process was killed."""
    said.seek(0)
    text = said.read().decode(errors="replace")
    if "Traceback (most recent call last)" in text:
        print(text, file=sys.stderr)
    if process.returncode < 0:
        how = signal.Signals(-process.returncode).name
        print(f"a process that trained {', '.join(runs)} was ended by {how}; they are trained here.", file=sys.stderr)
