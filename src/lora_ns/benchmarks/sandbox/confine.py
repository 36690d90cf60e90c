"""Starts the sandbox's process without bubblewrap: applies Landlock, then seccomp, then runs `child.py` in this process.

Run as a script, never imported by the package.  It needs only ctypes.  The restrictions cannot be undone, not even by
root, since the capabilities are dropped first.  Structures: Linux, include/uapi/linux/landlock.h and capability.h.
"""

# importing pathlib would take 4 ms per run
# ruff: noqa: PTH112, PTH118, PTH120, PTH123

import ctypes
import os
import struct
import sys

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446  # the same on all architectures
ACCESS_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # ABI version -> number of file access rights
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
ACCESS_NET_TCP = 0b11  # bind, connect: ABI 4
SCOPES = 0b11  # abstract unix sockets, signals: ABI 6
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 24, 38, 22
SECCOMP_MODE_FILTER = 2
SIGKILL = 9
CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def drop_capabilities():
    """Drop all capabilities, also for root. Failures to drop one from the bounding set are ignored (it may be missing)."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    checked(libc.capset(header, bytes(24)), "capset")


def apply_landlock(abi, readable, devices):
    """Allow only reading below `readable` and reading and writing `devices`; no network, no signals to other processes."""
    handled = (1 << ACCESS_FS_BITS.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", handled, ACCESS_NET_TCP if abi >= 4 else 0, SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = checked(libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0), "landlock_create_ruleset")
    for path in readable:
        allow(ruleset, path, READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE)
    for path in devices:
        allow(ruleset, path, READ_FILE | WRITE_FILE)
    checked(libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def allow(ruleset, path, rights):
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, beneath)
    checked(libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), "landlock_add_rule " + path)
    os.close(beneath)


def apply_seccomp(program):
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the pointer is aligned, hence "@"
    filter_program = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program, 0, 0), "seccomp")


def main():
    with open(os.path.join(os.path.dirname(sys.argv[0]), "child.py"), "rb") as file:
        child: dict = {"__name__": "child"}
        exec(compile(file.read(), "child.py", "exec"), child)
    channel = child["Channel"](child["quiet_stdin"](0), int(sys.argv[1]))
    config = channel.read()
    checked(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != config["parent"]:
        os._exit(0)  # the parent died before PR_SET_PDEATHSIG was set
    sys.path.extend(config["package_paths"])
    child["limit"](config["limits"])
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    drop_capabilities()
    apply_landlock(config["landlock_abi"], config["readable"], config["devices"])
    apply_seccomp(config["seccomp"])
    child["serve"](channel)


if __name__ == "__main__":
    main()
