"""Checkpoints of a run: written whole or not at all, and believed only where every file is what was written.

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
"""A run that says nothing of save_steps keeps a checkpoint so often; a short one keeps none."""

MANIFEST = "manifest.json"
NO_ROOM = ("iostream error", "PytorchStreamWriter", "inline_container")
"""In what torch says where a file cannot be written to its end."""
_NAME = re.compile(r"checkpoint-(\d+)")


def saving_place(scratch: Path) -> Path:
    """Where a checkpoint is made before it counts."""
    return scratch / "saving"


@contextmanager
def writing(scratch: Path) -> Iterator[None]:
    """Inside, a checkpoint is written.  Raises CheckpointError where it cannot be, as on a full disk."""
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
    """The finished folder `saving/checkpoint-<step>` becomes a checkpoint; older ones beyond two go.  Returns its place."""
    for path in made.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    record.write_json(made / MANIFEST, record.checksums(made))
    target = scratch / made.name
    shutil.rmtree(target, ignore_errors=True)  # a damaged one of the same step
    made.rename(target)
    _sync_folder(scratch)
    for old in _by_step(scratch)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(scratch: Path) -> Path | None:
    """The newest checkpoint that verifies; None where there is none.  Removes what was cut short or damaged."""
    shutil.rmtree(saving_place(scratch), ignore_errors=True)
    for folder in _by_step(scratch):
        if is_whole(folder):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
    return None


def is_whole(folder: Path) -> bool:
    """Whether every file of a checkpoint is there and has the checksum of its manifest."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = record.checksums(folder)
    except (OSError, ValueError):
        return False
    found.pop(MANIFEST, None)
    return bool(listed) and found == listed


def step_of(folder: Path) -> int:
    """Optimiser steps behind a checkpoint."""
    found = _NAME.fullmatch(folder.name)
    assert found is not None, folder
    return int(found[1])


def _by_step(scratch: Path) -> list[Path]:
    """Checkpoints, newest first."""
    folders = [path for path in scratch.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(folders, key=step_of, reverse=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
