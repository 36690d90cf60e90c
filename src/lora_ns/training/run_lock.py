"""One trainer for each run: only the process that owns `lock` in the run's scratch folder writes checkpoints.

The file names its owner and is touched as long as that process lives, so that one on another machine can tell a living
owner from one that was killed.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from lora_ns.errors import Busy, LoraNsError
from lora_ns.store.owner import Owner

BEAT_SECONDS = 10


@contextmanager
def run_lock(scratch: Path) -> Iterator[None]:
    """Lock a run's scratch folder.  Raises Busy if a living process has locked it, LoraNsError if it cannot be written."""
    path = scratch / "lock"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        _take(path)
    except OSError as error:
        raise LoraNsError(f"cannot write {path}: {error.strerror or error}.") from error
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    """Create the lock file, after removing that of a dead process."""
    me = Owner.here()
    # the content is written before the file gets its name, so a lock always has an owner
    own = path.with_name(f".lock-{me.host}-{me.pid}")
    for _ in range(10):
        try:
            own.write_text(json.dumps(asdict(me)), encoding="utf-8")
            os.link(own, path)
            return
        except FileExistsError:
            with suppress(FileNotFoundError):
                owner = Owner.read(path)
                if owner is not None and owner.is_alive(time.time() - path.stat().st_mtime, ask_slurm=True):
                    raise Busy(
                        f"{path.parent.name} is being trained by process {owner.pid} on {owner.host}"
                        + (f" (SLURM job {owner.job})" if owner.job else "")
                        + ". Wait for it, or end it first."
                    ) from None
                path.unlink()
        finally:
            own.unlink(missing_ok=True)
    raise Busy(f"{path} changes hands faster than it can be taken; start again.")


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)
