"""What the benchmarks share: each contender works in a process of its own, on one core, and says how it went as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

ONE_CORE = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def measured(script: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the contender of the script prints last, as JSON; ends the benchmark where it fails."""
    command = [sys.executable, script, "--contender", name]
    command += [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, **QUIET, **ONE_CORE}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def intermediate(hidden: int) -> int:
    """Llama's: 8/3 of the hidden size, rounded up to a multiple that matrix products are quick at."""
    return -(-hidden * 8 // (3 * 64)) * 64


def peak_bytes() -> int:
    """The most memory that this process has held; getrusage would give that of the process which started it, if more."""
    from lora_ns.store.environment import peak_resident

    found = peak_resident()
    assert found is not None, "this system does not say how much memory a process has held"
    return found


def without_engines() -> None:
    """Keeps what nobody here uses from being imported."""
    for package in ("bitsandbytes", "deepspeed"):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]
