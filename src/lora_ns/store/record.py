"""What happened: code, versions, hardware, inputs, outputs, checksums, seconds and memory of one stage.

A record has two halves.  What must not vary when the stage is made again stands at the top; what may (times, hosts,
hardware) stands under `circumstances`.
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
from lora_ns.store.digests import PROTOCOL, sha256_file
from lora_ns.store.environment import code_state, hardware, package_versions, peak_gpu, peak_resident, reset_peak

SCHEMA = 1


_NOT_DETERMINISTIC = re.compile(r"(\S.*?) does not have a deterministic implementation")


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """{relative path: {sha256, bytes}} of every file in the folder except its record."""
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
    """A record without its outputs, which are added when the artefact is sealed.

    inputs: what was read, as name -> digest or artefact name.  facts: whatever else this stage has to say.
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
    """Seconds and peak memory of each part of a stage, apart from one another; and what in them was not deterministic."""

    def __init__(self) -> None:
        code_state()  # as it is when the work begins, whatever is committed or checked out meanwhile
        self.figures: dict[str, dict[str, Any]] = {"seconds": {}, "peak_memory_bytes": {}, "peak_gpu_memory_bytes": {}}
        self.not_deterministic: list[str] = []
        """Operations that torch has no deterministic algorithm for on this device."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures what happens inside; a figure that this machine cannot give is null."""
        resettable = reset_peak()
        start = time.perf_counter()
        with _noticing(self.not_deterministic):
            yield
        self.figures["seconds"][name] = round(time.perf_counter() - start, 3)
        self.figures["peak_memory_bytes"][name] = peak_resident() if resettable else None
        self.figures["peak_gpu_memory_bytes"][name] = peak_gpu()


@contextmanager
def _noticing(operations: list[str]) -> Iterator[None]:
    """Gathers the names of operations for which torch warns that it cannot be deterministic."""
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
    """sha256 of the content as it reads back from JSON, whatever the layout, without its `seal`."""
    plain = json.loads(json.dumps({key: value for key, value in content.items() if key != "seal"}, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its own checksum as `seal`, by which a later change of any value shows."""
    return {**content, "seal": seal_of(content)}


def write_json(path: Path, value: Any) -> None:
    """The value as JSON with a stable layout, durable on disk when this returns.  Not-a-number is refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
