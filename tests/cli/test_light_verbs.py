"""What only looks at files starts at once: nothing that computes is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, write_config

HEAVY = {"torch", "transformers", "peft", "datasets", "accelerate", "trl", "scipy", "matplotlib"}
METHODS = sorted((REPOSITORY / "configs/methods").glob("*.yaml"))


@pytest.mark.parametrize(
    "program",
    [
        "from lora_ns.cli import app; app(['--help'], standalone_mode=False)",
        "from lora_ns.cli import app; app(['validate', *sys.argv[1:]], standalone_mode=False)",
        "from lora_ns.workflow.dag_inputs import Dag; assert Dag(sys.argv[1]).runs",
    ],
    ids=["help", "validate", "workflow"],
)
def test_nothing_that_computes_is_imported(program: str, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    files = ["configs/experiments/demo.yaml", *(f"configs/methods/{path.name}" for path in METHODS)]
    if "validate" in program:
        run(program, files, tmp_path)  # what PEFT's classes say of these settings is kept for the next call
    done = run(program, files, tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout


def test_what_a_plan_has_predicted_once_is_read(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    study = {"name": "e", "tasks": ["configs/demo/paraphrase.yaml"], "methods": ["configs/methods/lora.yaml"], "seeds": [0]}
    write_config(tmp_path / "e.yaml", study)
    program = "from lora_ns.cli import app; app(['plan', sys.argv[1]], standalone_mode=False)"
    first, second = (run(program, ["e.yaml"], tmp_path) for _ in range(2))
    assert "torch" in first.stderr, first.stderr + first.stdout
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout


def run(program: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh Python; status 1 where something that computes was imported."""
    left = f"; found = {HEAVY} & set(sys.modules); sys.exit(f'imported: {{found}}' if found else 0)"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {program}{left}", *arguments], cwd=folder, capture_output=True, text=True
    )
