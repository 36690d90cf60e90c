"""pyproject.toml, requirements.lock and environment.yml never disagree, and name no index."""

from __future__ import annotations

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCK = (REPOSITORY / "requirements.lock").read_text()
LOCKED = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;+]+)", LOCK, re.M)}


def test_every_dependency_is_locked_to_a_version_that_it_allows() -> None:
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        needed = Requirement(text)
        locked = LOCKED.get(canonicalize_name(needed.name))
        assert locked is not None, f"{needed.name} is not in requirements.lock: make lock"
        assert needed.specifier.contains(locked, prereleases=True), f"{needed} but {locked} is locked"


def test_the_lock_says_versions_only() -> None:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(LOCKED)
    assert not re.search(r"https?:|--|@|nvidia|triton|\+cpu", LOCK)


def test_the_conda_environment_takes_its_packages_from_the_lock_and_a_python_that_is_allowed() -> None:
    parts = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    pip = next(part["pip"] for part in parts if isinstance(part, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    plain = [part for part in parts if isinstance(part, str)]
    (python,) = [part.split("=", 1)[1] for part in plain if part.startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    assert {part.split("=")[0] for part in plain} == {"python", "pip"}
