"""Atomic writing of text files."""

import os
import platform
from contextlib import suppress
from pathlib import Path

from lora_ns.errors import LoraNsError


def write_text(path: Path, text: str) -> None:
    """Write the text to a file and fsync it."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def scratch_beside(target: Path) -> Path:
    """Return the temporary path for a file that is moved to `target` later. It contains host and process id."""
    return target.parent / f".{target.name}.tmp-{platform.node()}-{os.getpid()}"


def replace_text(path: Path, text: str) -> None:
    """Write the text atomically, unless the file has this content already.  Raises LoraNsError if writing fails."""
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
