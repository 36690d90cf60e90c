"""A clone to run documented commands in, with the project's own base models made once for all test processes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, Run


@pytest.fixture(scope="session")
def base_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/models with tiny-llama and tiny-bert: the repository's own where they are made already."""
    from lora_ns.base_model import make_base_model
    from lora_ns.store import Store, exists

    root = tmp_path_factory.getbasetemp().parent / "base_models"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        root = tmp_path_factory.mktemp("base_models")
    root.mkdir(exist_ok=True)
    store = Store(root)
    for name in ("builtin:tiny-llama", "builtin:tiny-bert"):
        with (root / name.partition(":")[2]).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder, made = store.base_model(name), Store(REPOSITORY).base_model(name)
            if exists(made) and not folder.exists():
                shutil.copytree(made, folder)
            make_base_model(name, store, quiet=True)
    return root / "data/models"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, base_models: Path) -> Path:
    """The files that git tracks or would track, in a place of their own, with this environment as its .venv."""
    folder = tmp_path_factory.mktemp("clone") / "lora-ns"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    shutil.copytree(base_models, folder / "data/models", dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def run(clone: Path) -> Run:
    """Runs a block of shell in the clone, each line of it having to succeed."""

    def in_the_clone(block: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone / "src")}
        # the environment is shared with the tests: `make` must not bring it up to date with the clone's files
        block = re.sub(r"^make ", "make --no-print-directory -o .venv/.ready ", block, flags=re.M)
        return subprocess.run(
            ["bash", "-c", "set -euo pipefail\n" + block],
            cwd=clone, env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    return in_the_clone
