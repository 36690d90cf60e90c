"""The isolation methods (tiers), best first, and the command that starts each.

bubblewrap and Landlock both give the program read-only access to the interpreter and its libraries, and to nothing else.
A verdict therefore does not depend on the tier.  bubblewrap hides by namespaces what Landlock forbids by rules.
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

    command: argument list, without the reply descriptor.
    config: content of the first message to the process, without the limits.
    seccomp: filter that the command reads from a descriptor; None where the process applies its filter itself.
    """

    name: str
    command: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    seccomp: bytes | None = None


def tier_of(name: str) -> Tier:
    """Return the tier of that name.  Raises SandboxError if it is not available on this machine."""
    if reason := unavailable(name):
        raise SandboxError(f"the sandbox {name!r} is not available here: {reason}.")
    return {"bubblewrap": _bubblewrap, "landlock": _landlock, "unsafe": _unsafe}[name]()


@cache
def unavailable(name: str) -> str | None:
    """Return why a tier is not available on this machine; None if it is."""
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
    """Return the kernel's Landlock ABI version; 0 if Landlock is missing or disabled."""
    if platform.system() != "Linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION))


def _landlock_missing() -> str | None:
    return None if landlock_abi() else "the kernel offers no Landlock (Linux 5.13 or newer, `landlock` among its LSMs)"


def interpreter() -> str:
    """Return the path of the interpreter, with a virtual environment's link resolved."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def package_paths() -> list[str]:
    """Return the folders of installed packages (a program may import numpy)."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def readable_paths() -> list[str]:
    """Return the paths a program may read: the interpreter, its libraries and the system's libraries.

    `sys.prefix` as a whole is not readable, since a virtual environment may contain a pip.conf with credentials.
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
    """Return the LD_LIBRARY_PATH folders that contain libpython (environment modules on clusters set it so)."""
    entries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return [entry for entry in entries if entry and any(Path(entry).glob("libpython*"))]


def environment() -> dict[str, str]:
    """Return the complete environment of a program. It has no secrets, and a fixed hash seed for a stable set order."""
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
