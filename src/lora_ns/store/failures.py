"""Notes of failed runs, so that the tables can give the reason instead of only "missing"."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lora_ns.config.text_files import replace_text
from lora_ns.errors import Busy, Interrupted, LoraNsError
from lora_ns.store import record
from lora_ns.store.environment import code_state
from lora_ns.store.paths import Store


@contextmanager
def record_failure(store: Store, run: str, stage: str) -> Iterator[None]:
    """Write results/failures/<run>.json if the stage inside fails.  Delete it if the stage succeeds."""
    try:
        yield
    except (Busy, Interrupted):
        raise  # neither is a fault of the run
    except Exception as error:
        own = isinstance(error, LoraNsError)
        reason = str(error) if own else f"{type(error).__name__}: {error}"
        note = {"schema": record.SCHEMA, "run": run, "stage": stage, "reason": reason, "code": code_state()}
        replace_text(store.failure(run), json.dumps(note, indent=1, ensure_ascii=False) + "\n")
        raise
    store.failure(run).unlink(missing_ok=True)


def failure_of(store: Store, run: str) -> dict[str, Any] | None:
    """Return the note of a run whose last attempt failed, with stage and reason.  None if there is none."""
    try:
        return json.loads(store.failure(run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
