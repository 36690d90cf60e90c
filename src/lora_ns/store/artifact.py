"""Artefacts are made in scratch, sealed and moved into place whole; one exists exactly when its record does."""

from __future__ import annotations

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
    """Whether the artefact is there: exactly when its record is."""
    return (folder / "record.json").is_file()


def read_record(folder: Path, *, diverged_too: bool = False) -> dict[str, Any]:
    """The record of an artefact.  Raises DataError where it is missing or damaged.

    diverged_too: also the record of a trial that diverged, for which TrainingError is raised otherwise.
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
    """Makes the artefact `target`: yields (scratch folder, record to be filled); sealed and moved into place at the end.

    A failure inside leaves nothing; a kill at any moment leaves at most scratch, which the next try removes.  Where another
    process has made it meanwhile, that one stays: both are the same, and somebody may read it.
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
            shutil.rmtree(target, ignore_errors=True)  # left without a record
            scratch.replace(target)
    except OSError as error:
        if not is_finished(target):
            raise LoraNsError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Removes scratch that a killed process of this machine left for this artefact."""
    ours = f".{target.name}.tmp-{platform.node()}-"
    for old in target.parent.glob(f"{ours}*"):
        pid = old.name.removeprefix(ours)
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
