"""A SLURM cluster on this machine: munge, one controller, three virtual nodes with GPUs that are none.

Debian's packages `slurm-wlm` and `munge`, as root.  SLURM's tools look into /etc/slurm, and the executor plugin keeps
the variable that would say otherwise from its jobs, so the configuration is linked there while the cluster runs.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
CONFIGURATION = Path("/etc/slurm")
LOCK = Path(tempfile.gettempdir()) / "lora-ns-tests-slurm.lock"
MARK = "# written by the tests of lora-ns"
NODES = ("gpu1", "gpu2", "cpu1")

SLURM_CONF = """{mark}
ClusterName=lora-ns-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=3600
OverTimeLimit=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished.txt
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,defer_batch
DefMemPerCPU=500
NodeName=gpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs=8 RealMemory=32000 Gres=gpu:2
NodeName=gpu2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=32000 Gres=gpu:2
NodeName=cpu1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=32000
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL Default=NO MaxTime=1:00:00 PriorityTier=10 State=UP
"""
# a GPU needs a character device: each node has the same two
GRES_CONF = f"""{MARK}
NodeName=gpu[1-2] Name=gpu File=/dev/null
NodeName=gpu[1-2] Name=gpu File=/dev/zero
"""
CGROUP_CONF = f"{MARK}\nCgroupAutomount=no\n"


def why_not() -> str | None:
    """Why no cluster can be started here; None where one can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"SLURM is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "SLURM's daemons run as root, and this is not root"
    found = CONFIGURATION / "slurm.conf"
    if found.exists() and MARK not in found.read_text():
        return f"this machine has a SLURM of its own ({found})"
    return None


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write_configuration(folder: Path) -> None:
    port, *ports = _free_ports(1 + len(NODES))
    text = SLURM_CONF.format(mark=MARK, host=platform.node(), folder=folder, port=port, ports=ports)
    for name, content in {"slurm": text, "gres": GRES_CONF, "cgroup": CGROUP_CONF}.items():
        (folder / f"{name}.conf").write_text(content)
        link = CONFIGURATION / f"{name}.conf"
        link.unlink(missing_ok=True)
        link.symlink_to(folder / f"{name}.conf")


def _munge(folder: Path) -> list[str]:
    """The command line of a munge daemon of our own, with a fresh key."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    return ["munged", "--foreground", "--force", f"--seed-file={folder / 'munge.seed'}", *options]


def _until(what: str, done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False).stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    """The daemon, and the step daemons that it left."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Runs the cluster; its configuration and logs lie in the folder, which must be root's alone."""
    folder.chmod(0o755)
    (folder / "state").mkdir()
    with ExitStack() as stack:
        lock = stack.enter_context(LOCK.open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run of this machine ends first
        output = stack.enter_context((folder / "daemons.log").open("wb"))

        def start(*command: str) -> None:
            stack.callback(_end, subprocess.Popen(command, stdout=output, stderr=output))

        stack.callback(_remove_configuration)
        _write_configuration(folder)
        start(*_munge(folder))
        _until("munge's socket", (folder / "munge.socket").exists)
        start("slurmctld", "-D", "-i")
        for node in NODES:
            start("slurmd", "-D", "-N", node)
        stack.callback(_cancel_everything)
        _until("idle nodes", lambda: _said("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * len(NODES))
        yield folder


def _cancel_everything() -> None:
    subprocess.run(["scancel", "--user=root"], timeout=30, check=False)
    try:
        _until("an empty queue", lambda: not _said("squeue", "-h").strip(), 30)
    except TimeoutError:
        subprocess.run(["scancel", "--signal=KILL", "--user=root"], timeout=30, check=False)


def _remove_configuration() -> None:
    for name in ("slurm", "gres", "cgroup"):
        (CONFIGURATION / f"{name}.conf").unlink(missing_ok=True)
