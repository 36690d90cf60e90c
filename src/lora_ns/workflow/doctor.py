"""Check which features this machine supports and what is missing. It changes nothing and uses no network."""

import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lora_ns.store.environment import code_state, hardware, package_versions, version_of

REPOSITORY = Path(__file__).resolve().parents[3]
GIBIBYTE = 2**30
TRY_SECONDS = 120
ENGINES = ("bitsandbytes", "deepspeed")
REMOTE_PLUGINS = {"s3": "dvc_s3", "ssh": "dvc_ssh", "gs": "dvc_gs", "azure": "dvc_azure", "http": "dvc_http"}
LATEX = ("latexmk", "pdflatex", "tectonic")


@dataclass(frozen=True)
class Finding:
    """One feature: its state on this machine, what was found, and the remedy.

    state: `ok`, `missing` (the feature cannot be used), or `note` (usable with a limit).
    """

    feature: str
    state: str
    found: str
    remedy: str = ""


def examine(root: Path = Path()) -> dict[str, Any]:
    """Return machine, versions, features, and whether every run's requirements are met, as plain values."""
    import torch  # hardware() lists GPUs only if torch is loaded

    with ThreadPoolExecutor() as pool:
        engines = dict(zip(ENGINES, pool.map(_import_fault, ENGINES), strict=True))
    features = [*_needed(root), *_accelerated(torch, engines), *_around(root)]
    return {
        "machine": {**hardware(), "free_disk_bytes": shutil.disk_usage(root).free},
        "versions": package_versions(),
        "features": [asdict(finding) for finding in features],
        "ready": all(f.state != "missing" for f in features if f.feature in ("python", "environment")),
    }


def _needed(root: Path) -> Iterator[Finding]:
    """Yield findings about requirements of every run."""
    here = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok" if sys.version_info >= (3, 11) else "missing", here, "lora-ns needs Python 3.11 or newer")
    lock = REPOSITORY / "requirements.lock"
    differing = lock_differences(lock)
    if not lock.is_file():
        yield Finding("environment", "note", "there is no requirements.lock here to compare with", "git checkout")
    elif differing:
        said = ", ".join(f"{name} {have or 'absent'} (locked: {locked})" for name, (have, locked) in differing.items())
        yield Finding("environment", "note", f"not as requirements.lock says: {said}", "make setup")
    else:
        yield Finding("environment", "ok", "exactly the versions of requirements.lock")
    state = code_state()
    found = "no git repository" if state["commit"] is None else f"commit {state['commit'][:12]}"
    note = " with uncommitted changes" if state["dirty"] else ""
    good = state["commit"] is not None and not state["dirty"]
    yield Finding("provenance", "ok" if good else "note", found + note, "commit before runs that matter")
    free = shutil.disk_usage(root).free
    yield Finding("disk", "ok" if free > 10 * GIBIBYTE else "note", f"{free / GIBIBYTE:.0f} GiB free", "make room")


def lock_differences(lock: Path) -> dict[str, tuple[str | None, str]]:
    """Return package -> (installed, locked) for different versions; a local build suffix (+cpu) is ignored."""
    text = lock.read_text() if lock.is_file() else ""
    pinned = re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;]+)", text, re.M)
    found = {name: (version_of(name), locked) for name, locked in pinned}
    return {name: pair for name, pair in found.items() if (pair[0] or "").split("+")[0] != pair[1]}


def _accelerated(torch: Any, engines: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield findings about GPU, quantised base models and DeepSpeed."""
    gpus = hardware()["gpus"]
    driver = shutil.which("nvidia-smi")
    if gpus:
        yield Finding("GPU", "ok", f"{', '.join(gpus)}, CUDA {torch.version.cuda}")
    elif driver:
        why = "torch is built without CUDA" if torch.version.cuda is None else "torch finds no device"
        yield Finding("GPU", "missing", f"there is a driver, but {why}", "install torch's CUDA build of the locked version")
    else:
        yield Finding("GPU", "note", "none: everything runs on the CPU", "")
    fault = engines["bitsandbytes"]
    if fault:
        yield Finding("quantised bases (4bit, 8bit)", "missing", fault, "pip install bitsandbytes")
    else:
        state, speed = ("ok", "") if gpus else ("note", "; without a GPU it is slow")
        yield Finding("quantised bases (4bit, 8bit)", state, f"bitsandbytes {version('bitsandbytes')}{speed}")
    fault, compiler = engines["deepspeed"], shutil.which("c++") or shutil.which("g++")
    if fault:
        yield Finding("DeepSpeed", "missing", fault, "pip install deepspeed")
    elif compiler is None:
        said = f"{version('deepspeed')}; no C++ compiler"
        yield Finding("DeepSpeed", "note", said, "its own optimisers and offload need one; torch's optimisers do not")
    else:
        yield Finding("DeepSpeed", "ok", f"{version('deepspeed')}, compiler {compiler}")


def _import_fault(name: str) -> str | None:
    """Import a package in a separate process; returns the reason if that fails, else None."""
    if importlib.util.find_spec(name) is None:
        return "not installed"
    command = [sys.executable, "-c", f"import {name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRY_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"importing it took more than {TRY_SECONDS} s"
    return None if done.returncode == 0 else f"cannot be imported: {(done.stderr.strip().splitlines() or ['?'])[-1]}"


def _around(root: Path) -> Iterator[Finding]:
    """Yield findings about sandbox, SLURM, DVC, the hub and LaTeX."""
    from lora_ns.benchmarks.sandbox.tiers import unavailable

    best = next((tier for tier in ("bubblewrap", "landlock") if unavailable(tier) is None), None)
    why = unavailable("bubblewrap")
    if best is None:
        yield Finding("code benchmarks", "missing", f"no sandbox: {why}; {unavailable('landlock')}", "install bubblewrap")
    else:
        yield Finding("code benchmarks", "ok" if why is None else "note", f"sandbox {best}{f' ({why})' if why else ''}")
    plugin = importlib.util.find_spec("snakemake_executor_plugin_slurm") is not None
    if shutil.which("sbatch") and plugin:
        yield Finding("SLURM", "ok", f"{shutil.which('sbatch')}, executor plugin installed")
    else:
        lacking = [] if shutil.which("sbatch") else ["no sbatch on the PATH"]
        lacking += [] if plugin else ["no snakemake-executor-plugin-slurm"]
        yield Finding("SLURM", "missing", "; ".join(lacking), "only for --profile slurm: log in to a cluster's head node")
    yield _dvc(root)
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "")
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    yield Finding("hub models and data", "note" if offline else "ok", f"cache {home}{', offline' if offline else ''}")
    tex = next((name for name in LATEX if shutil.which(name)), None)
    yield Finding("paper.tex as PDF", "ok" if tex else "missing", tex or f"none of {', '.join(LATEX)}", "only to compile it")


def _dvc(root: Path) -> Finding:
    """Check DVC, its remotes and the plugins they need."""
    if importlib.util.find_spec("dvc") is None:
        return Finding("DVC", "missing", "not installed", "pip install dvc")
    remotes = dvc_remotes(root)
    if not remotes:
        said = f"{version('dvc')}, no remote"
        return Finding("DVC", "note", said, "for push and pull: dvc remote add --local --default storage PATH-OR-URL")
    schemes = {name: url.split("://")[0] if "://" in url else "folder" for name, url in remotes.items()}
    lacking = {s: p for s in schemes.values() if (p := REMOTE_PLUGINS.get(s)) and importlib.util.find_spec(p) is None}
    said = f"{version('dvc')}, remotes: {', '.join(f'{name} ({scheme})' for name, scheme in schemes.items())}"
    if lacking:
        return Finding("DVC", "missing", said, f"pip install {' '.join(p.replace('_', '-') for p in lacking.values())}")
    return Finding("DVC", "ok", said)


def dvc_remotes(root: Path) -> dict[str, str]:
    """Return name -> URL of the DVC remotes in .dvc/config and .dvc/config.local."""
    parser = configparser.ConfigParser()
    parser.read([root / ".dvc/config", root / ".dvc/config.local"])
    pairs = {name: parser[name].get("url", "") for name in parser.sections()}
    return {match[1]: url for name, url in pairs.items() if (match := re.fullmatch(r"""'?remote "(.+)"'?""", name))}


def as_text(found: Mapping[str, Any]) -> str:
    """Format the result of `examine` as lines of text."""
    machine = found["machine"]
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    lines = [
        f"machine   {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / GIBIBYTE:.0f} GiB, {gpus}",
        f"system    {machine['system']}",
        f"versions  {', '.join(f'{name} {v}' for name, v in found['versions'].items() if v)}",
        "",
    ]
    for finding in found["features"]:
        remedy = f"  → {finding['remedy']}" if finding["remedy"] and finding["state"] != "ok" else ""
        lines.append(f"{finding['state']:<8}{finding['feature']}: {finding['found']}{remedy}")
    return "\n".join(lines)
