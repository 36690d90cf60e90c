"""Records: code, versions, hardware, inputs, outputs, checksums, seconds and memory of one stage.

The top level of a record must be equal when the stage is repeated.  Values that may differ (times, hosts, hardware) are
under `circumstances`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import warnings as python_warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_ns.config.text_files import write_text
from lora_ns.store.digests import PROTOCOL
from lora_ns.store.environment import code_state, hardware, package_versions, peak_gpu, peak_resident, reset_peak
from lora_ns.store.local_files import sha256_file

SCHEMA = 1


_NOT_DETERMINISTIC = re.compile(r"(\S.*?) does not have a deterministic implementation")


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {relative path: {sha256, bytes}} for every file in the folder except its record."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "record.json")
    return {path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in files}


def describe(
    stage: str,
    digest: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    warnings: list[str] | None = None,
    meter: Meter | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return a record without its outputs, which are added when the artefact is sealed.

    inputs: name -> digest or artefact name of what was read.  facts: further entries of this stage.
    """
    return {
        "schema": SCHEMA,
        "stage": stage,
        "protocol": PROTOCOL.get(stage),
        "digest": digest,
        "config": dict(config),
        "inputs": dict(inputs),
        **facts,
        "warnings": list(dict.fromkeys(warnings or [])),
        "code": code_state(),
        "packages": package_versions(),
        "circumstances": {
            "command": sys.argv,
            "hardware": hardware(),
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "not_deterministic": list(meter.not_deterministic) if meter else [],
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **(meter.figures if meter else {}),
        },
    }


class Meter:
    """Measures seconds and peak memory of each part of a stage, and lists its non-deterministic operations."""

    def __init__(self) -> None:
        code_state()  # cached now, so that later commits or checkouts do not change it
        self.figures: dict[str, dict[str, Any]] = {"seconds": {}, "peak_memory_bytes": {}, "peak_gpu_memory_bytes": {}}
        self.not_deterministic: list[str] = []
        """Operations without a deterministic algorithm in torch on this device."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure the code inside.  A figure that this machine cannot measure is null."""
        resettable = reset_peak()
        start = time.perf_counter()
        with _noticing(self.not_deterministic):
            yield
        self.figures["seconds"][name] = round(time.perf_counter() - start, 3)
        self.figures["peak_memory_bytes"][name] = peak_resident() if resettable else None
        self.figures["peak_gpu_memory_bytes"][name] = peak_gpu()


@contextmanager
def _noticing(operations: list[str]) -> Iterator[None]:
    """Add the operations that torch warns are not deterministic to `operations`."""
    with python_warnings.catch_warnings():
        python_warnings.filterwarnings("always", message=_NOT_DETERMINISTIC.pattern)
        show = python_warnings.showwarning

        def notice(message: Warning | str, *rest: Any, **named: Any) -> None:
            found = _NOT_DETERMINISTIC.match(str(message))
            if found is None:
                show(message, *rest, **named)
            elif found[1] not in operations:
                operations.append(found[1])

        python_warnings.showwarning = notice
        yield


def seal_of(content: Mapping[str, Any]) -> str:
    """The sha256 of the content without its `seal`, independent of JSON layout."""
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != "seal"}, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its checksum as `seal`, which reveals later changes."""
    return {**content, "seal": seal_of(content)}


def write_json(path: Path, value: Any) -> None:
    """Write the value as JSON with a stable layout.  It is on disk when this returns.  Raises ValueError for NaN."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
