"""The seccomp filter (a BPF program) that refuses system calls of generated code.

These calls fail with EPERM, so that Python raises PermissionError: new processes (threads are allowed), sockets, calls
that act on other processes, change files' metadata (which Landlock does not cover), use memory outside RLIMIT_AS, or
widen the kernel's attack surface.  Calls newer than the filter fail with ENOSYS, so that the C library falls back.
"""

import errno
import os
import tempfile
from functools import cache
from typing import Any

from lora_ns.errors import SandboxError

CLONE_THREAD = 0x00010000
NEWEST_KNOWN = 450
"""Newest known system call (Linux 5.17). Higher numbers are the same on all architectures."""
UNKNOWN_UP_TO = 640
LOW_32_BITS = 0xFFFFFFFF

_COMMON_NUMBERS = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443,
    "landlock_create_ruleset": 444, "memfd_secret": 447, "process_mrelease": 448,
}  # fmt: skip
"""Numbers of new system calls, the same on all architectures. An old libseccomp does not know their names."""

_PROCESSES = """
    fork vfork ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_open pidfd_getfd
    pidfd_send_signal unshare setns"""
_NETWORK = """
    socket socketpair connect bind listen accept accept4 sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg"""
_HIDDEN_MEMORY = """
    memfd_create memfd_secret shmget shmat shmctl msgget msgsnd semget mq_open userfaultfd"""
_SURFACE = """
    bpf perf_event_open keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register mount umount2
    mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick pivot_root chroot swapon swapoff reboot kexec_load
    kexec_file_load init_module finit_module delete_module acct quotactl quotactl_fd syslog settimeofday clock_settime
    adjtimex clock_adjtime sethostname setdomainname personality open_by_handle_at name_to_handle_at fanotify_init
    lookup_dcookie vhangup nfsservctl uselib modify_ldt iopl ioperm"""
_OUTSIDE_BUBBLEWRAP = """
    execve execveat kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo setpgid chmod fchmod fchmodat chown fchown
    lchown fchownat utime utimes utimensat futimesat truncate setxattr lsetxattr fsetxattr getxattr lgetxattr listxattr
    llistxattr removexattr lremovexattr fremovexattr inotify_init inotify_init1 inotify_add_watch setpriority ioprio_set
    sched_setscheduler sched_setparam sched_setattr sched_setaffinity migrate_pages move_pages capset
    landlock_create_ruleset"""
# (call, argument, refused value, mask): F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN and SIOCSPGRP can send signals.
# TIOCSTI types into a terminal. PR_SET_PDEATHSIG could outlive the parent.
_ARGUMENTS = [
    *(("fcntl", 1, command, LOW_32_BITS) for command in (8, 10, 15)),
    *(("ioctl", 1, command, LOW_32_BITS) for command in (0x8901, 0x8902, 0x5412)),
    ("prctl", 0, 1, LOW_32_BITS),
]


@cache
def seccomp_program(own_namespaces: bool) -> bytes:
    """Return the filter as an array of `struct sock_filter`.  Raises SandboxError if pyseccomp cannot be used.

    own_namespaces: True for bubblewrap, whose namespaces isolate the process and which must still start the interpreter.
        False gives a tighter filter.
    """
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxError(f"pyseccomp cannot be used ({error}): install it, and the system's libseccomp 2.") from error
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    names = (_PROCESSES + _NETWORK + _HIDDEN_MEMORY + _SURFACE).split()
    if not own_namespaces:
        names += _OUTSIDE_BUBBLEWRAP.split()
        others_limits = pyseccomp.Arg(0, pyseccomp.NE, 0), pyseccomp.Arg(2, pyseccomp.NE, 0)
        _add(program, refuse, "prlimit64", *others_limits)
        for name, argument, value, mask in _ARGUMENTS:
            _add(program, refuse, name, pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, mask, value))
    for name in names:
        _add(program, refuse, name)
    _add(program, refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, CLONE_THREAD, 0))
    missing = pyseccomp.ERRNO(errno.ENOSYS)
    _add(program, missing, "clone3")  # its flags are in memory, which a filter cannot read
    for number in range(NEWEST_KNOWN + 1, UNKNOWN_UP_TO):
        program.add_rule(missing, number)
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        return os.pread(file.fileno(), 1 << 20, 0)


def _add(program: Any, action: int, name: str, *arguments: Any) -> None:
    """Add one rule, unless this architecture lacks the system call."""
    import pyseccomp

    number = pyseccomp.resolve_syscall(pyseccomp.system_arch(), name)
    if number == -1:  # newer than this libseccomp
        number = _COMMON_NUMBERS.get(name, -1)
    if number >= 0:
        program.add_rule(action, number, *arguments)
