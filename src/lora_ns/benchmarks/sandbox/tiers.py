"""The ways to isolate a process on this machine, best first, and the command that starts each.

Both show the program the interpreter, its libraries and nothing else, all read-only, so that a verdict does not depend
on the tier.  bubblewrap's namespaces hide what Landlock's rules forbid.
"""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lora_ns.benchmarks.sandbox.seccomp import seccomp_program
from lora_ns.errors import SandboxError

TIERS = ("bubblewrap", "landlock", "unsafe")
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_CREATE_RULESET_VERSION = 1
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SYSTEM_PATHS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Tier:
    """How to start an isolated interpreter.

    command: its argument list, less the reply descriptor.
    config: what its first message tells it, beyond the limits.
    seccomp: a filter that the command reads from a descriptor; None where the process applies it itself.
    """

    name: str
    command: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    seccomp: bytes | None = None


def tier_of(name: str) -> Tier:
    """The tier of that name.  Raises SandboxError where this machine does not have it."""
    if reason := unavailable(name):
        raise SandboxError(f"the sandbox {name!r} is not available here: {reason}.")
    return {"bubblewrap": _bubblewrap, "landlock": _landlock, "unsafe": _unsafe}[name]()


@cache
def unavailable(name: str) -> str | None:
    """Why a tier cannot be had on this machine; None where it can."""
    if name == "unsafe":
        return None
    if name not in TIERS:
        return f"there is no such tier, only auto, {', '.join(TIERS)}"
    if platform.system() != "Linux":
        return "it needs Linux"
    try:
        seccomp_program(own_namespaces=name == "bubblewrap")
    except SandboxError as error:
        return str(error)
    return _bubblewrap_missing() if name == "bubblewrap" else _landlock_missing()


def _bubblewrap_missing() -> str | None:
    if not shutil.which("bwrap"):
        return "there is no `bwrap` on the PATH (package `bubblewrap`)"
    tier = _bubblewrap()
    start = tier.command[: tier.command.index("--")]
    tried = subprocess.run([*start, "--", interpreter(), "-S", "-c", ""], capture_output=True, text=True, env={})
    return None if tried.returncode == 0 else f"bwrap cannot start a process here ({tried.stderr.strip()[-500:]})"


def landlock_abi() -> int:
    """The kernel's Landlock version; 0 where it has none or has it switched off."""
    if platform.system() != "Linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION))


def _landlock_missing() -> str | None:
    return None if landlock_abi() else "the kernel offers no Landlock (Linux 5.13 or newer, `landlock` among its LSMs)"


def interpreter() -> str:
    """The interpreter itself, behind a virtual environment's link."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def package_paths() -> list[str]:
    """Where installed packages lie (a program may import numpy)."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def readable_paths() -> list[str]:
    """What a program may read: the interpreter, its libraries, the system's libraries.

    Not `sys.prefix` as a whole: a virtual environment may hold a pip.conf with credentials.
    """
    base = {"base": sys.base_prefix, "installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    paths = {
        interpreter(),
        f"{sys.base_prefix}/lib",
        sysconfig.get_path("stdlib", vars=base),
        sysconfig.get_path("platstdlib", vars={**base, "platbase": sys.base_exec_prefix}),
        *package_paths(),
        *library_path(),
        *_SYSTEM_PATHS,
    }
    return sorted(path for path in paths if Path(path).exists())


def library_path() -> list[str]:
    """Directories of LD_LIBRARY_PATH that hold the interpreter's own library (module systems set it so)."""
    entries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return [entry for entry in entries if entry and any(Path(entry).glob("libpython*"))]


def environment() -> dict[str, str]:
    """All of a program's environment: no secret comes through, and sets have the same order every time."""
    variables = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return variables | ({"LD_LIBRARY_PATH": ":".join(library_path())} if library_path() else {})


def _python(script: str) -> tuple[str, ...]:
    return (interpreter(), "-s", "-S", "-P", "-B", "-X", "utf8", script)


def _bubblewrap() -> Tier:
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in readable_paths():
        command += ["--ro-bind", path, path]
    for device in DEVICES:
        command += ["--dev-bind-try", device, device]
    child = "/sandbox/child.py"
    command += ["--ro-bind", str(_HERE / "child.py"), child, "--remount-ro", "/", "--chdir", "/"]
    return Tier("bubblewrap", (*command, "--", *_python(child)), {"package_paths": package_paths()}, seccomp_program(True))


def _landlock() -> Tier:
    config = {
        "package_paths": package_paths(),
        "landlock_abi": landlock_abi(),
        "readable": readable_paths(),
        "devices": [device for device in DEVICES if Path(device).exists()],
        "seccomp": seccomp_program(False),
        "parent": os.getpid(),
    }
    return Tier("landlock", _python(str(_HERE / "confine.py")), config)


def _unsafe() -> Tier:
    return Tier("unsafe", _python(str(_HERE / "child.py")), {"package_paths": package_paths()})
