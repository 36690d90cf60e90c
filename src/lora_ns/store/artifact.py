"""Artefacts are made in a scratch folder, sealed, and moved into place whole.  One exists if and only if its record does."""

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lora_ns.config.text_files import scratch_beside
from lora_ns.errors import DataError, LoraNsError, TrainingError
from lora_ns.store import record


def is_finished(folder: Path) -> bool:
    """Whether the artefact exists, which is when its record does."""
    return (folder / "record.json").is_file()


def read_record(folder: Path, *, diverged_too: bool = False) -> dict[str, Any]:
    """Return the record of an artefact.  Raises DataError if it is missing or damaged.

    diverged_too: also return the record of a diverged trial.  Otherwise that raises TrainingError.
    """
    try:
        found = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder} is not there, or was never finished: it has no record.json.") from None
    except ValueError as error:
        raise DataError(f"{folder}/record.json is damaged: {error}") from None
    if "diverged" in found and not diverged_too:
        raise TrainingError(f"{folder.name} was a trial and diverged: {found['diverged']}")
    return found


@contextmanager
def atomic_artifact(target: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Make the artefact `target`.  Yields (scratch folder, record to fill), then seals it and moves it into place.

    A failure inside leaves nothing.  A kill leaves at most the scratch folder, which the next attempt removes.  If another
    process has made the artefact meanwhile, that one stays: both are equal, and it may be in use.
    """
    scratch = scratch_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        scratch.mkdir()
    except OSError as error:
        raise LoraNsError(f"cannot write {target}: {error.strerror or error}.") from error
    notes: dict[str, Any] = {}
    try:
        yield scratch, notes
        notes["outputs"] = record.checksums(scratch)
        record.write_json(scratch / "record.json", record.sealed(notes))
        if not is_finished(target):
            shutil.rmtree(target, ignore_errors=True)  # an unfinished folder without a record
            scratch.replace(target)
    except OSError as error:
        if not is_finished(target):
            raise LoraNsError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove this artefact's scratch folders left by killed processes of this machine."""
    ours = f".{target.name}.tmp-{platform.node()}-"
    for old in target.parent.glob(f"{ours}*"):
        pid = old.name.removeprefix(ours)
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
