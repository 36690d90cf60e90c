"""What happened: code, versions, hardware, inputs, outputs, checksums, seconds and memory of one stage.

A record has two halves.  What must not vary when the stage is made again stands at the top; what may (times, hosts,
hardware) stands under `circumstances`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import warnings as python_warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SCHEMA = 1
PACKAGES = (
    "lora-ns torch transformers trl peft datasets accelerate deepspeed bitsandbytes tokenizers safetensors numpy scipy "
    "scikit-learn pyarrow pandas"
).split()

PROTOCOL = {"fetch": 1, "pretrain": 2, "tokenize": 3, "train": 2, "evaluate": 2, "merge": 1, "choose": 1, "tables": 1}
"""Bumped by hand when a change of the code changes what a stage means; a part of every digest."""

_NOT_DETERMINISTIC = re.compile(r"(\S.*?) does not have a deterministic implementation")


def sha256_file(path: Path) -> str:
    """Checksum of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@cache
def code_state() -> dict[str, Any]:
    """Commit of the code, whether it was changed since, and the lock file's checksum; null where it is not known."""
    root = Path(__file__).resolve().parents[2]
    lock = root / "requirements.lock"
    state: dict[str, Any] = {"commit": None, "dirty": None, "lock_sha256": sha256_file(lock) if lock.is_file() else None}
    if (root / ".git").exists():
        state["commit"] = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "src", "workflow", "Snakefile", "requirements.lock")
        state["dirty"] = None if changed is None else bool(changed)
    return state


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def package_versions() -> dict[str, str | None]:
    """Versions of the packages that results depend on; null where one is not installed."""
    return {"python": platform.python_version(), **{package: version_of(package) for package in PACKAGES}}


def version_of(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """Processor, memory, accelerators.  Accelerators are named only where torch has been loaded."""
    torch = sys.modules.get("torch")
    gpus, cuda = [], None
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        cuda = {
            "runtime": torch.version.cuda,
            "driver": _of_system("/sys/module/nvidia/version"),
            "cudnn": torch.backends.cudnn.version(),
        }
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": _of_system("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        "cuda": cuda,
    }


def _of_system(file: str, name: str = "") -> str | None:
    """What a file of the kernel's says, in the first line that begins with the name; None where it says nothing."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[-1].strip() for line in lines if line.startswith(name)), None)


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
        resettable = _reset_peak()
        start = time.perf_counter()
        with _noticing(self.not_deterministic):
            yield
        self.figures["seconds"][name] = round(time.perf_counter() - start, 3)
        self.figures["peak_memory_bytes"][name] = peak_resident() if resettable else None
        self.figures["peak_gpu_memory_bytes"][name] = _peak_gpu()


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


def _reset_peak() -> bool:
    """Forgets the process's greatest memory so far; False where the system cannot."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_resident() -> int | None:
    """The most bytes that this process has held; None where the system does not say."""
    found = _of_system("/proc/self/status", "VmHWM:")
    return int(found.split()[0]) * 1024 if found else None


def _peak_gpu() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


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


def write_text(path: Path, text: str) -> None:
    """The text as a file, durable on disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
