"""Text files, written whole or not at all."""

import os
import platform
from contextlib import suppress
from pathlib import Path

from lora_ns.errors import LoraNsError


def write_text(path: Path, text: str) -> None:
    """The text as a file, durable on disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def scratch_beside(target: Path) -> Path:
    """Where this process makes what will be moved to `target`; the name says whose it is."""
    return target.parent / f".{target.name}.tmp-{platform.node()}-{os.getpid()}"


def replace_text(path: Path, text: str) -> None:
    """Writes the text whole or not at all; leaves a file alone that says it already."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    scratch = scratch_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(scratch, text)
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise LoraNsError(f"cannot write {path}: {error.strerror or error}.") from error
