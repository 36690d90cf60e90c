"""Checkpoints of a run: written completely or not at all, and used only if every file has its recorded checksum.

A checkpoint is made in `saving/`, listed with its checksums in manifest.json, and only then moved to its name; so a kill
at any moment leaves the last one as it was.  Two are kept, in case the newest was damaged on the disk.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lora_ns.errors import CheckpointError
from lora_ns.store import record

KEPT = 2
EVERY_SECONDS = 600
"""Interval of checkpoints if save_steps is not set.  A shorter run has none."""

MANIFEST = "manifest.json"
NO_ROOM = ("iostream error", "PytorchStreamWriter", "inline_container")
"""Part of torch's error message if a file cannot be written completely."""
_NAME = re.compile(r"checkpoint-(\d+)")


def saving_place(scratch: Path) -> Path:
    """Folder in which a checkpoint is written before it is moved into place."""
    return scratch / "saving"


@contextmanager
def writing(scratch: Path) -> Iterator[None]:
    """Context in which a checkpoint is written.  Raises CheckpointError if it cannot be written, such as on a full disk."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in NO_ROOM):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise CheckpointError(
            f"cannot write a checkpoint in {scratch}: {reason} ({shutil.disk_usage(scratch).free >> 20} MiB are free). What "
            "was kept before is still there."
        ) from error


def seal(made: Path, scratch: Path) -> Path:
    """Move the finished folder `saving/checkpoint-<step>` into place and delete all but the newest two.  Returns its path."""
    for path in made.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    record.write_json(made / MANIFEST, record.checksums(made))
    target = scratch / made.name
    shutil.rmtree(target, ignore_errors=True)  # a damaged checkpoint of the same step
    made.rename(target)
    _sync_folder(scratch)
    for old in _by_step(scratch)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(scratch: Path) -> Path | None:
    """The newest checkpoint that is intact, or None.  Deletes incomplete and damaged ones."""
    shutil.rmtree(saving_place(scratch), ignore_errors=True)
    for folder in _by_step(scratch):
        if is_whole(folder):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
    return None


def is_whole(folder: Path) -> bool:
    """Whether every file of a checkpoint exists and has the checksum in its manifest."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = record.checksums(folder)
    except (OSError, ValueError):
        return False
    found.pop(MANIFEST, None)
    return bool(listed) and found == listed


def step_of(folder: Path) -> int:
    """Optimiser steps before a checkpoint."""
    found = _NAME.fullmatch(folder.name)
    assert found is not None, folder
    return int(found[1])


def _by_step(scratch: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    folders = [path for path in scratch.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(folders, key=step_of, reverse=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
