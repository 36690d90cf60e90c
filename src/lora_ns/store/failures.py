"""Why a run failed, kept beside the results, so that the tables can say it instead of only "missing"."""

from __future__ import annotations

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
    """Writes results/failures/<run>.json where the stage inside fails; takes it away where it succeeds."""
    try:
        yield
    except (Busy, Interrupted):
        raise  # neither says anything about the run
    except Exception as error:
        own = isinstance(error, LoraNsError)
        reason = str(error) if own else f"{type(error).__name__}: {error}"
        note = {"schema": record.SCHEMA, "run": run, "stage": stage, "reason": reason, "code": code_state()}
        replace_text(store.failure(run), json.dumps(note, indent=1, ensure_ascii=False) + "\n")
        raise
    store.failure(run).unlink(missing_ok=True)


def failure_of(store: Store, run: str) -> dict[str, Any] | None:
    """The note of a run whose last try failed: stage and reason."""
    try:
        return json.loads(store.failure(run).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
