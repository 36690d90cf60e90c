"""What `lora-ns doctor` finds on this machine, and what it says where something is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import REPOSITORY, lora_ns

from lora_ns.workflow import doctor


def by_feature(found: dict) -> dict[str, dict]:
    return {feature["feature"]: feature for feature in found["features"]}


def test_the_command_names_every_feature_and_says_the_same_as_json() -> None:
    text, said = lora_ns("doctor"), lora_ns("doctor", "--json")
    assert (text.returncode, said.returncode) == (0, 0), text.stderr + said.stderr
    found = json.loads(said.stdout)
    assert found["ready"] is True
    assert found["machine"]["threads"] >= 1 and found["versions"]["torch"]
    features = by_feature(found)
    wanted = {"python", "environment", "provenance", "GPU", "DeepSpeed", "code benchmarks", "SLURM", "DVC"}
    assert wanted <= set(features)
    for name, feature in features.items():
        assert name in text.stdout
        assert feature["state"] in ("ok", "note", "missing") and feature["found"]
        assert feature["remedy"] or feature["state"] != "missing"


def test_without_a_lock_it_does_not_say_that_all_is_as_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REPOSITORY", tmp_path)
    environment = by_feature(doctor.examine())["environment"]
    assert environment["state"] == "note" and "there is no requirements.lock" in environment["found"]


def test_a_version_that_differs_from_the_lock_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("torch==1.0\nno-such-package==3.1\nnumpy==" + doctor.version("numpy") + "\n")
    differing = doctor.lock_differences(lock)
    assert differing == {"torch": (doctor.version("torch"), "1.0"), "no-such-package": (None, "3.1")}
    assert not doctor.lock_differences(REPOSITORY / "requirements.lock").get("numpy")


def test_without_slurm_and_latex_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    which = shutil.which
    hidden = {"sbatch", *doctor.LATEX}
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None if name in hidden else which(name))
    features = by_feature(doctor.examine(tmp_path))
    assert features["SLURM"]["state"] == "missing" and "no sbatch" in features["SLURM"]["found"]
    assert features["paper.tex as PDF"]["state"] == "missing"


def test_a_remote_whose_plugin_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    remote = far\n['remote \"far\"']\n    url = gs://bucket/here\n")
    feature = by_feature(doctor.examine(tmp_path))["DVC"]
    assert feature["state"] == "missing" and "gs" in feature["found"] + feature["remedy"]
