"""Train several adapters in one process: groups together, all other runs one after another.

Each run keeps its own artefact and digest, and fails or finishes by itself; that it was trained beside others is in its
record's circumstances only.
"""

import hashlib
import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lora_ns.config.text_files import replace_text
from lora_ns.errors import Busy, CheckpointError, Interrupted, LoraNsError, TrainingError
from lora_ns.models.machine import check_machine
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, is_finished
from lora_ns.store.failures import record_failure
from lora_ns.store.processes import Processes
from lora_ns.store.progress import report_progress
from lora_ns.store.run import Run
from lora_ns.training.out_of_memory import OutOfMemory, release, smaller
from lora_ns.training.run_lock import run_lock
from lora_ns.training.signals import Interruption, defer_signals
from lora_ns.training.train import described, facts_of, train

Done = Callable[[Run, Path | LoraNsError], None]

MEMBERS = "runs.json"
"""File in a group's scratch folder with the names of the runs in its checkpoints."""


def train_all(groups: Sequence[Sequence[Run]], done: Done, *, quiet: bool = False) -> None:
    """Train the missing adapters, each group jointly.

    done: called for every run with its adapter folder or its error.  Raises Interrupted after a stop signal.
    """
    beside = sum(map(len, groups)) > 1 and Processes.here().count == 1
    with defer_signals() as interruption:
        for group in groups:
            _stop_where_told(interruption)
            for run in _at_once(group, done, quiet):
                _stop_where_told(interruption)
                done(run, _one(run, quiet, beside=beside))


def _stop_where_told(interruption: Interruption) -> None:
    if interruption:
        raise interruption.raised("what was trained is kept")


def _one(run: Run, quiet: bool, *, beside: bool) -> Path | LoraNsError:
    """Train one run.  beside: other runs follow, so no failure of this one may stop the process."""
    return _outcome(lambda: train(run, quiet=quiet), run, beside=beside)


def _outcome(work: Callable[[], Path], run: Run, *, beside: bool = True) -> Path | LoraNsError:
    """The run's adapter, or the error, which is also recorded as the run's failure."""
    try:
        with record_failure(run.store, run.name, "train"):
            return work()
    except Interrupted:
        raise
    except LoraNsError as error:
        return error
    except Exception as error:
        if not beside:
            raise
        return _told(error)


def _told(error: Exception) -> LoraNsError:
    """Print the traceback of an unexpected error.  Returns it as a LoraNsError for the table of failures."""
    traceback.print_exception(error)
    return LoraNsError(f"{type(error).__name__}: {error}")


def _at_once(group: Sequence[Run], done: Done, quiet: bool) -> list[Run]:
    """Train the unfinished runs of a group together.  Returns the runs that are finished or must be trained alone."""
    scratch = _scratch_of(group)
    members = _members(group, scratch)
    if len(members) < 2:
        return list(group)
    from lora_ns.training.multi_adapter.layout import CannotGroup

    try:
        for run in members:
            check_machine(run.config)
        with ExitStack() as held, defer_signals() as interruption:
            for run in members:
                held.enter_context(run_lock(run.scratch))
            if all(run.is_trained for run in members):
                return list(group)  # finished by another process meanwhile
            _train_at_once(members, scratch, interruption, done, quiet)
    except CannotGroup:
        shutil.rmtree(scratch, ignore_errors=True)
        return list(group)
    except Busy:
        return list(group)  # the worker died or the run is locked; trained alone, each run reports its own error
    except Interrupted:
        raise
    except CheckpointError as error:
        failure: LoraNsError = error
    except LoraNsError:
        return list(group)
    except Exception as error:
        failure = _told(error)
    else:
        return [run for run in group if run not in members]

    for run in group:
        done(run, _made_or(failure, run))
    return []


def _members(group: Sequence[Run], scratch: Path) -> list[Run]:
    """The runs of the group's checkpoint, even if some are finished.  Without a checkpoint: the unfinished runs."""
    missing = [run for run in group if not run.is_trained]
    if any(scratch.glob("checkpoint-*")):
        with suppress(OSError, ValueError):
            names = json.loads((scratch / MEMBERS).read_text(encoding="utf-8"))
            if missing:
                return [run for run in group if run.name in names]
        shutil.rmtree(scratch, ignore_errors=True)  # no longer needed, or its runs are unknown
    return missing


def _made_or(failure: LoraNsError, run: Run) -> Path | LoraNsError:
    """The run's adapter if it was finished in spite of the failure."""

    def work() -> Path:
        if run.is_trained:
            return run.adapter
        raise failure

    return _outcome(work, run)


def _train_at_once(group: Sequence[Run], scratch: Path, interruption: Interruption, done: Done, quiet: bool) -> None:
    per_device, notes, meter = group[0].config.training.per_device_train_batch_size, [], record.Meter()
    scratch.mkdir(parents=True, exist_ok=True)
    replace_text(scratch / MEMBERS, json.dumps([run.name for run in group]) + "\n")
    while True:
        with _starts(scratch, len(group)) as starts:
            try:
                with meter.part("loading"):
                    sweep, members, size = _prepared(group, starts, scratch, per_device, quiet)
                    resumed = sweep.resume()
                with meter.part("training"), ExitStack() as saying:
                    for member in members:
                        said = report_progress(member.run.store, member.run.name, "train", member.steps, sweep.step)
                        member.report = saying.enter_context(said)
                    sweep.run(interruption)
                fits = True
            except OutOfMemory:
                fits = False
            if not fits:  # outside the except block: the exception still references the base model
                per_device = smaller(size)
                notes.append(f"memory ran out with {size} rows of each run at once; {per_device} were taken instead")
                del sweep, members
                release()
                continue
            how = {"rows_at_once": size, "accumulation": sweep.arguments.gradient_accumulation_steps, "memory": notes}
            how |= {"loss": sweep.loss.kind, "rows": sweep.loss.rows, "resumed_from": resumed}
            how["fused_with"] = [member.run.name for member in members]
            is_kept = True
            for member, started in zip(members, starts, strict=True):
                outcome = _kept(member, started, meter, how, sweep.rows)
                is_kept &= not isinstance(outcome, LoraNsError) or isinstance(outcome, TrainingError)
                done(member.run, outcome)
            if not is_kept:  # the next try saves what could not be saved from this checkpoint
                with suppress(Exception):  # the failure is reported already
                    sweep.save()
        if is_kept:
            shutil.rmtree(scratch, ignore_errors=True)
        return


def _prepared(
    group: Sequence[Run], starts: Sequence[Path], scratch: Path, per_device: int | None, quiet: bool
) -> tuple[Any, Any, int]:
    """(training loop, members, per-device batch of each) before the first step."""
    from lora_ns.models.base_model import best_device, load_base, make_deterministic
    from lora_ns.training.arguments import arguments_of
    from lora_ns.training.batch_size import split_batch
    from lora_ns.training.multi_adapter.loop import MultiAdapterLoop
    from lora_ns.training.multi_adapter.members import join
    from lora_ns.training.setup import rows_and_collate

    first = group[0]
    size, accumulation = split_batch(first.config.training.global_batch_size, 1, per_device)
    rows, collate = rows_and_collate(first)
    make_deterministic(first.config.seed)
    base: Any = load_base(first)
    base = base.to(best_device())
    members, arguments = [], []
    for number, (run, started) in enumerate(zip(group, starts, strict=True)):
        arguments.append(arguments_of(run.config, scratch, size=size, accumulation=accumulation, quiet=quiet))
        members.append(join(number, run, base, rows, collate, arguments[-1], started))
    sweep = MultiAdapterLoop(base, members, rows, size=size, scratch=scratch, arguments=arguments[0])
    return sweep, members, size


def _kept(member: Any, started: Path, meter: record.Meter, how: dict[str, Any], rows: Any) -> Path | LoraNsError:
    """Save a member's adapter.  Returns its folder or the error."""
    run: Run = member.run
    target = run.adapter

    def save() -> Path:
        if is_finished(target):
            return target  # finished before an interruption, or by another process
        if member.failure is not None:
            raise member.failure
        with atomic_artifact(target) as (folder, notes):
            member.save(started, folder)
            facts = facts_of(member.setup.parameters, member.history, member.order, rows.lengths, how)
            notes |= described(run, _share_of(meter, len(how["fused_with"])), facts)
        return target

    outcome = _outcome(save, run)
    if not isinstance(outcome, LoraNsError):
        shutil.rmtree(run.scratch, ignore_errors=True)
    return outcome


def _share_of(meter: record.Meter, members: int) -> record.Meter:
    """One member's share of the seconds, and the memory of the whole group."""
    share = record.Meter()
    share.figures = {**meter.figures, "seconds": {k: round(v / members, 3) for k, v in meter.figures["seconds"].items()}}
    share.not_deterministic = meter.not_deterministic
    return share


def _scratch_of(group: Sequence[Run]) -> Path:
    """Folder of a group's checkpoints."""
    names = json.dumps([run.name for run in group])
    return group[0].store.scratch("sweep-" + hashlib.sha256(names.encode()).hexdigest()[:12])


@contextmanager
def _starts(scratch: Path, count: int) -> Iterator[list[Path]]:
    """An empty folder for each member's files before training."""
    with tempfile.TemporaryDirectory(prefix=f"starts-{os.getpid()}-", dir=scratch) as folder:
        places = [Path(folder) / str(number) for number in range(count)]
        for place in places:
            place.mkdir()
        yield places
