"""`dvc repro`, push and pull, and what a clone of a finished study finds to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support import REPOSITORY, causal_task, lora_ns, sums, write_config

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def run(folder: Path, *words: str) -> str:
    """stdout and stderr of a command that must succeed."""
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def to_do(folder: Path, target: str) -> str:
    """What Snakemake would run for a target, or `nothing`."""
    said = run(folder, "snakemake", target, "-n", "-q", "rules", "--config", "experiment=configs/experiments/tiny.yaml")
    return said if "Job stats" in said else "nothing"


def files_below(folder: Path) -> dict[str, bytes]:
    """Without Snakemake's own mark of when a folder was made, which git ignores."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".snakemake_timestamp"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """A study of one small run that `dvc repro` has made, committed and pushed to a folder."""
    folder = tmp_path_factory.mktemp("dvc") / "study"
    for name in ("workflow", "profiles", ".dvc", "src"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("tmp", "cache", "config.local", "__pycache__")
        )
    for name in ("Snakefile", "Makefile", "environment.yml", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "sums").mkdir()
    for split, rows in {"train": sums(40), "test": sums(10, 45)}.items():
        (folder / "sums" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(folder / "configs/task.yaml", causal_task(tiny_causal))
    write_config(folder / "configs/lora.yaml", {"peft": {"method": "lora", "r": 2, "target_modules": "all-linear"}})
    experiment = {"name": "tiny", "tasks": ["configs/task.yaml"], "methods": ["configs/lora.yaml"], "seeds": [0]}
    write_config(folder / "configs/experiments/tiny.yaml", experiment)
    write_config(folder / "params.yaml", {"experiment": "configs/experiments/tiny.yaml", "snakemake": "--cores 2"})
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "a study to be made")
    run(folder, "dvc", "remote", "add", "--local", "--default", "store", str(folder.parent / "store"))
    run(folder, "dvc", "repro")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "the study as it was made")
    run(folder, "dvc", "push")
    return folder


@pytest.fixture
def clone(study: Path, tmp_path: Path) -> Path:
    run(tmp_path, "git", "clone", "-q", str(study), "clone")
    return tmp_path / "clone"


def test_repro_makes_every_milestone_and_git_keeps_what_is_small(study: Path) -> None:
    kept = run(study, "git", "ls-files").splitlines()
    assert {"dvc.lock", "results/tables/tiny/main.md", "results/metrics/tiny.json"} <= set(kept)
    assert any(name.startswith("results/scores/") for name in kept)
    assert not [name for name in kept if name.startswith(("data/", "results/adapters", "results/predictions"))]
    lock = yaml.safe_load((study / "dvc.lock").read_text())
    assert set(lock["stages"]) == {"data", "adapters", "scores", "tables"}


def test_a_second_repro_does_nothing_in_under_five_seconds(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file() and ".dvc" not in path.parts}
    started = time.monotonic()
    said = run(study, "dvc", "repro")
    assert time.monotonic() - started < 5
    assert "Data and pipelines are up to date" in said and "Running" not in said
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_repro_after_a_change_removes_nothing_that_snakemake_would_keep(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy, symlinks=True)
    write_config(copy / "configs/unused.yaml", {"a": "change that nothing is made from"})
    adapters = {path: path.stat().st_mtime_ns for path in (copy / "results/adapters").rglob("*") if path.is_file()}
    said = run(copy, "dvc", "repro")
    assert "Running stage 'adapters'" in said
    assert adapters == {path: path.stat().st_mtime_ns for path in adapters}


def test_a_clone_that_pulls_has_nothing_to_train_or_evaluate(study: Path, clone: Path) -> None:
    run(clone, "dvc", "remote", "add", "--local", "--default", "store", str(study.parent / "store"))
    run(clone, "dvc", "pull")
    assert files_below(clone / "results/adapters") == files_below(study / "results/adapters")
    assert [to_do(clone, target) for target in ("data", "adapters", "scores", "all")] == ["nothing"] * 4
    assert "are as their records say" in lora_ns("verify", "--stored", cwd=clone).stdout
    said = run(clone, "dvc", "repro")
    assert "Data and pipelines are up to date" in said and "Running" not in said


def test_a_clone_with_gits_files_only_rebuilds_the_tables_to_the_byte(study: Path, clone: Path) -> None:
    assert not (clone / "data").exists() and not (clone / "results/adapters").exists()
    assert to_do(clone, "all") == "nothing"
    for place in ("tables", "figures", "metrics", "plots"):
        shutil.rmtree(clone / "results" / place)
    done = lora_ns("tables", "configs/experiments/tiny.yaml", cwd=clone)
    assert done.returncode == 0, done.stderr
    for place in ("tables", "figures", "metrics", "plots"):
        assert files_below(clone / "results" / place) == files_below(study / "results" / place)
    assert run(clone, "git", "status", "--porcelain") == ""


def test_dvc_says_which_setting_and_which_metric_changed(study: Path, clone: Path) -> None:
    write_config(clone / "configs/lora.yaml", {"peft": {"method": "lora", "r": 3, "target_modules": "all-linear"}})
    assert re.search(r"configs/lora.yaml\s+peft.r\s+2\s+3", run(clone, "dvc", "params", "diff"))
    metrics = clone / "results/metrics/tiny.json"
    values = json.loads(metrics.read_text())
    values["sums"]["gsm8k"]["lora"]["gsm8k_flexible"] += 0.25
    metrics.write_text(json.dumps(values))
    assert "sums.gsm8k.lora.gsm8k_flexible" in run(clone, "dvc", "metrics", "show")
    assert re.search(r"sums.gsm8k.lora.gsm8k_flexible .* 0\.25", run(clone, "dvc", "metrics", "diff"))
    run(clone, "dvc", "plots", "show")
    shown = (clone / "dvc_plots/index.html").read_text()
    assert "results/figures/tiny/seeds.png" in shown and "sums, gsm8k" in shown


def test_a_damaged_adapter_is_named_after_a_pull(study: Path, clone: Path) -> None:
    run(clone, "dvc", "remote", "add", "--local", "--default", "store", str(study.parent / "store"))
    run(clone, "dvc", "pull")
    weights = next((clone / "results/adapters").rglob("*.safetensors"))
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = lora_ns("verify", "--stored", cwd=clone)
    assert done.returncode == 1 and weights.name in done.stderr and weights.parent.name in done.stderr


def restore(clone: Path) -> subprocess.CompletedProcess[str]:
    """`make restore` with this environment as the one that is set up."""
    words = ["make", f"VENV={BIN.parent}", "-o", f"{BIN.parent}/.ready", "restore", "EXPERIMENT=configs/experiments/tiny.yaml"]
    return subprocess.run(
        words, cwd=clone, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip


def test_make_restore_brings_all_back_and_finds_nothing_to_do_and_never_takes_damage_for_good(study: Path, clone: Path) -> None:
    run(clone, "dvc", "remote", "add", "--local", "--default", "store", str(study.parent / "store"))
    done = restore(clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are as their records say" in done.stdout and "Job stats" not in done.stdout + done.stderr
    assert files_below(clone / "results/adapters") == files_below(study / "results/adapters")
    (clone / next(iter(clone.glob("results/scores/*/*.json")))).write_text("{}")
    done = restore(clone)
    assert done.returncode != 0 and "results/scores/" in done.stderr


def test_the_repository_has_no_remote_of_its_own() -> None:
    config = (REPOSITORY / ".dvc/config").read_text()
    assert "[remote" not in config and "['remote" not in config and "url" not in config
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    outputs = [out for stage in stages.values() for out in stage["outs"]]
    assert all(settings["persist"] for out in outputs for settings in out.values())
