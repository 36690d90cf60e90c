"""Attack programs for testing the sandbox. Each is run like any other program.

`attack()` returns "blocked", or the names of the actions that worked.  A forgery attacks the verdict, not the machine: it
must not pass.  All attacks target bait files and processes, so a sandbox that fails the test does no harm.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_ns.benchmarks.sandbox.program import Program, Status

SECRET = "bait: not for the program"

_PRELUDE = """
import os, sys
def tried(*actions):
    worked = []
    for name, action in actions:
        try:
            if action() is not False: worked.append(name)
        except (OSError, MemoryError, ValueError, AttributeError, ImportError): pass
    return ", ".join(worked) + " worked" if worked else "blocked"
def called(name, *arguments):
    import ctypes
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result == -1: raise OSError(ctypes.get_errno(), name)
    return result
"""

ATTACKS: dict[str, str] = {
    "read_files": """
def attack():
    return tried(("open", lambda: open(SECRET_PATH).read()), ("listdir", lambda: os.listdir(BAIT)))
""",
    "read_environment": """
def attack():
    if set(os.environ) - {"PYTHONHASHSEED", "LC_ALL", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_LIBRARY_PATH",
                          "PWD"}:
        return "os.environ worked"
    read = lambda process: lambda: open("/proc/%s/environ" % process, "rb").read()
    return tried(*((str(process), read(process)) for process in (PARENT, DECOY)))
""",
    "write_files": """
def attack():
    new = os.path.join(BAIT, "new")
    return tried(
        ("write", lambda: open(SECRET_PATH, "w")), ("append", lambda: open(SECRET_PATH, "a")),
        ("create", lambda: open(new, "x")), ("mkdir", lambda: os.mkdir(new + "dir")),
        ("truncate", lambda: os.truncate(SECRET_PATH, 0)), ("chmod", lambda: os.chmod(SECRET_PATH, 0o777)),
        ("utime", lambda: os.utime(SECRET_PATH, (0, 0))), ("setxattr", lambda: os.setxattr(SECRET_PATH, "user.a", b"")),
        ("fchmodat2", lambda: called("syscall", 452, -100, SECRET_PATH.encode(), 0o777, 0)),
        ("link", lambda: os.link(SECRET_PATH, new)), ("symlink", lambda: os.symlink("/", new)),
        ("rename", lambda: os.rename(SECRET_PATH, new)), ("remove", lambda: os.remove(SECRET_PATH)),
        ("library", lambda: open(os.__file__, "a")),
    )
""",
    "open_socket": """
def attack():
    import socket
    return tried(
        ("tcp", lambda: socket.create_connection(("127.0.0.1", PORT), 1)), ("udp", lambda: socket.socket(2, 2)),
        ("unix", lambda: socket.socket(1, 1)), ("pair", socket.socketpair),
    )
""",
    "start_processes": """
def child(pid):
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
def clone3():
    import ctypes
    arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17)
    child(called("syscall", 435, arguments, 64))
def attack():
    import subprocess
    return tried(
        ("fork", lambda: child(os.fork())), ("libc fork", lambda: child(called("fork"))), ("clone3", clone3),
        ("spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})),
        ("subprocess", lambda: subprocess.run([sys.executable, "-c", ""])),
    )
""",
    "leave_orphans": """
def orphan():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            import time
            time.sleep(ORPHAN_SECONDS)
        os._exit(0)
def attack():
    return tried(("double fork", orphan))
""",
    "map_memory": """
def attack():
    import mmap
    return tried(("50 GB map", lambda: mmap.mmap(-1, 50 << 30)))
""",
    "touch_memory": """
def attack():
    return tried(("2 GB", lambda: len(bytearray(2 << 30))))
""",
    "hidden_memory": """
def shared():
    called("shmctl", called("shmget", 0, 64 << 20, 0o1600), 0, None)
def attack():
    return tried(("memfd", lambda: os.memfd_create("a")), ("shmget", shared))
""",
    "signal_others": """
def attack():
    if os.getpid() == DECOY: return "blocked"  # a namespace's own small numbers
    import signal
    return tried(
        ("kill", lambda: os.kill(DECOY, signal.SIGTERM)), ("killpg", lambda: os.killpg(DECOY, signal.SIGTERM)),
        ("pidfd", lambda: os.pidfd_open(DECOY)), ("kill all", lambda: BROADCAST and os.kill(-1, 0)),
    )
""",
    "hamper_others": """
def attack():
    if os.getpid() == DECOY: return "blocked"
    import resource
    return tried(
        ("prlimit", lambda: resource.prlimit(DECOY, resource.RLIMIT_CORE, (0, 0))),
        ("priority", lambda: os.setpriority(os.PRIO_PROCESS, DECOY, 19)),
        ("affinity", lambda: os.sched_setaffinity(DECOY, os.sched_getaffinity(0))),
    )
""",
    "read_memory_of_others": """
def attack():
    if os.getpid() == DECOY: return "blocked"
    return tried(
        ("mem", lambda: open("/proc/%s/mem" % DECOY, "rb")), ("maps", lambda: open("/proc/%s/maps" % PARENT).read()),
        ("ptrace", lambda: called("ptrace", 16, DECOY, None, None)),
        ("process_vm_readv", lambda: called("process_vm_readv", DECOY, None, 0, None, 0, 0)),
    )
""",
    "fill_disk": """
def fill(directory):
    written, paths = 0, []
    try:
        for number in range(20):
            paths.append(os.path.join(directory, "fill%d" % number))
            with open(paths[-1], "wb") as file: written += file.write(bytes(10 << 20))
    finally:
        for path in paths: os.path.exists(path) and os.remove(path)
    return written > 32 << 20
def attack():
    places = [BAIT, ".", "/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/sandbox", os.path.expanduser("~")]
    return tried(*((place, lambda place=place: fill(place)) for place in places))
""",
    "raise_limits": """
def attack():
    import resource
    more = resource.RLIM_INFINITY
    return tried(*((name, lambda name=name: resource.setrlimit(getattr(resource, name), (more, more)))
                   for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE")))
""",
    "new_namespaces": """
def attack():
    return tried(("user", lambda: called("unshare", 0x10000000)), ("mount", lambda: called("unshare", 0x20000)))
""",
}

_UNKNOWN = "assert f(7) == 'what the program is never told'"
_APART = "assert abs(f(7) - 1.25) < 1e-6"

FORGERIES: dict[str, str] = {
    "forge_by_exit": """
import sys
sys.exit(0)
""",
    "forge_by_hard_exit": """
import os
f = lambda x: os._exit(0)
""",
    "forge_by_equality": """
class All(str):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    __hash__ = str.__hash__
def f(x): return All()
""",
    "forge_by_patching": """
import builtins, sys
builtins.repr = builtins.str = builtins.abs = lambda *a: 0
builtins.AssertionError = SystemExit
frame = sys._getframe()
while frame:
    for name in ("encoded", "reply_of", "error_of"):
        if name in frame.f_globals: frame.f_globals[name] = lambda *a: '{"t":"value","v":true}'
    frame = frame.f_back
def f(x): return True
""",
    "forge_by_frames": """
import gc, sys
def f(x):
    frame, seen = sys._getframe(), gc.get_objects()
    while frame:
        seen += [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]
        frame = frame.f_back
    found = [each for each in seen if isinstance(each, str) and "never" + " told" in each]
    return found[0].split("'")[1] if found and "'" in found[0] else found[0] if found else None
""",
    "forge_on_the_channel": """
import os
reply = b'{"t":"value","v":null}'
for fd in range(64):
    try: os.write(fd, (len(reply).to_bytes(4, "big") + reply) * 100)
    except OSError: pass
def f(x): return None
""",
}
"""Programs that try to pass without solving the task."""

EXPECTED: dict[str, tuple[Status, ...]] = {"map_memory": ("pass", "memory"), "touch_memory": ("pass", "memory")}


def forgery_programs() -> dict[str, Program]:
    """The forgeries by name, each checked twice: by a comparison in this process and by a harness in a separate process."""
    return {
        name + suffix: Program(code, (check,))
        for name, code in FORGERIES.items()
        for suffix, check in (("", _UNKNOWN), ("_apart", _APART))
    }


@contextmanager
def attack_programs(orphan_seconds: float = 30, broadcast: bool = True) -> Iterator[dict[str, Program]]:
    """Yield the attacks by name. Their bait exists as long as the context.

    broadcast: also try to signal every process. Set it only where the sandbox has its own process namespace.
    """
    with tempfile.TemporaryDirectory(prefix="lora-ns-bait-") as directory, socket.create_server(("127.0.0.1", 0)) as port:
        secret = Path(directory) / "secret"
        secret.write_text(SECRET)
        decoy = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, env={"SECRET": SECRET})
        aims = {
            "BAIT": directory, "SECRET_PATH": str(secret), "PARENT": os.getpid(), "DECOY": decoy.pid,
            "PORT": port.getsockname()[1], "ORPHAN_SECONDS": orphan_seconds, "BROADCAST": broadcast,
        }  # fmt: skip
        prelude = _PRELUDE + "".join(f"{name} = {value!r}\n" for name, value in aims.items())
        try:
            yield {
                name: Program(prelude + source, ("assert attack() == 'blocked'",), timeout_seconds=20)
                for name, source in ATTACKS.items()
            }
        finally:
            decoy.kill()
            decoy.communicate()
