"""The environment of a stage: code, packages, hardware, memory."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lora_ns.store.local_files import sha256_file

PACKAGES = (
    "lora-ns torch transformers trl peft datasets accelerate deepspeed bitsandbytes tokenizers safetensors numpy scipy "
    "scikit-learn pyarrow pandas"
).split()


@cache
def code_state() -> dict[str, Any]:
    """The code's commit, whether it has uncommitted changes, and the lock file's checksum.  Null if unknown."""
    root = Path(__file__).resolve().parents[3]
    lock = root / "requirements.lock"
    state: dict[str, Any] = {"commit": None, "dirty": None, "lock_sha256": sha256_file(lock) if lock.is_file() else None}
    if (root / ".git").exists():
        state["commit"] = git_output(root, "rev-parse", "HEAD")
        changed = git_output(root, "status", "--porcelain", "--", "src", "workflow", "Snakefile", "requirements.lock")
        state["dirty"] = None if changed is None else bool(changed)
    return state


def git_output(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def package_versions() -> dict[str, str | None]:
    """The versions of the packages that results depend on.  Null if one is not installed."""
    return {"python": platform.python_version(), **{package: version_of(package) for package in PACKAGES}}


def version_of(package: str) -> str | None:
    """The version of a package.  None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """The processor, memory and GPUs of this machine.  GPUs are listed only if torch is already imported."""
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
    """The value in the first line of a kernel file that starts with `name`.  None if there is none."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[-1].strip() for line in lines if line.startswith(name)), None)


def reset_peak() -> bool:
    """Reset the process's peak memory counters.  Returns False if the system cannot."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_resident() -> int | None:
    """The peak resident memory of this process, in bytes.  None if the system does not report it."""
    found = _of_system("/proc/self/status", "VmHWM:")
    return int(found.split()[0]) * 1024 if found else None


def peak_gpu() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())
