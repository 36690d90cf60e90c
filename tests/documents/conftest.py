"""A clone to run documented commands in, with the project's own base models made once for all test processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import REPOSITORY, Run, run_in


@pytest.fixture(scope="session")
def base_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/models with tiny-llama and tiny-bert: the repository's own where they are made already."""
    from lora_ns.store.artifact import is_finished
    from lora_ns.store.paths import Store
    from lora_ns.workflow.pipeline import make_base_model

    root = tmp_path_factory.getbasetemp().parent / "base_models"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        root = tmp_path_factory.mktemp("base_models")
    root.mkdir(exist_ok=True)
    store = Store(root)
    for name in ("builtin:tiny-llama", "builtin:tiny-bert"):
        with (root / name.partition(":")[2]).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder, made = store.base_model(name), Store(REPOSITORY).base_model(name)
            if is_finished(made) and not folder.exists():
                shutil.copytree(made, folder)
            make_base_model(name, store)
    return root / "data/models"


@pytest.fixture(scope="session")
def new_clone(tmp_path_factory: pytest.TempPathFactory, base_models: Path) -> Callable[[], Path]:
    """Makes a clone: the files that git tracks or would track, with this environment as its .venv."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip

    def make() -> Path:
        folder = tmp_path_factory.mktemp("clone") / "lora-ns"
        for name in listed:
            if (REPOSITORY / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, folder / name)
        (folder / ".venv").symlink_to(Path(sys.prefix))
        shutil.copytree(base_models, folder / "data/models", dirs_exist_ok=True)
        return folder

    return make


@pytest.fixture(scope="module")
def clone(new_clone: Callable[[], Path]) -> Path:
    """One clone for all tests of a file."""
    return new_clone()


@pytest.fixture(scope="module")
def run(clone: Path) -> Run:
    """Runs a block of shell in the file's clone."""
    return partial(run_in, clone)
