"""Whether an artefact still is what its record says.  Every stage asks before it reads; nothing damaged is used.

An artefact's record states the sha256 of each of its files, and carries its own (`seal`); a score file carries one too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_ns import record
from lora_ns.errors import DamagedError

REMEDY = "It is not used. Bring it back (`git checkout`, `dvc checkout --force`), or remove it and it is made again."


def intact(folder: Path) -> dict[str, Any]:
    """The record of an artefact that is whole.  Raises DamagedError that names what is not."""
    found = faults(folder)
    if found:
        raise DamagedError(f"{folder} is damaged: {'; '.join(found)}. {REMEDY}")
    content: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return content


def faults(folder: Path) -> list[str]:
    """What is wrong with an artefact, each file named; nothing where it is whole."""
    if not folder.is_dir():
        return ["it is not here"]
    content = _sealed_json(folder / "record.json")
    if isinstance(content, str):
        return [content]
    if content["digest"] != folder.name.rsplit("-", 1)[-1]:
        return [f"record.json is that of another artefact ({content['stage']}, digest {content['digest']})"]
    found = []
    for name, stated in content["outputs"].items():
        if fault := _file_fault(folder / name, stated):
            found.append(f"{name} {fault}")
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    strange = sorted(name for name in here - {"record.json", *content["outputs"]} if not _hidden(name))
    return found + [f"{name} is not of it" for name in strange]


def _hidden(name: str) -> bool:
    """What a system leaves behind, like .DS_Store."""
    return name.rsplit("/", 1)[-1].startswith(".")


def _file_fault(path: Path, stated: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != stated["bytes"]:
        return f"has {path.stat().st_size} bytes, its record says {stated['bytes']}"
    found = record.sha256_file(path)
    return None if found == stated["sha256"] else f"has sha256 {found[:12]}…, its record says {stated['sha256'][:12]}…"


def intact_score(path: Path) -> dict[str, Any]:
    """The content of a score file that is as it was written.  Raises DamagedError that says what is not."""
    content = _score_or_fault(path)
    if isinstance(content, str):
        raise DamagedError(f"{path} is damaged: {content}. {REMEDY}")
    return content


def score_faults(path: Path, predictions: Path | None = None) -> list[str]:
    """What is wrong with a score file, and with the predictions that it was counted from, where they are here."""
    content = _score_or_fault(path)
    if isinstance(content, str):
        return [content]
    if predictions is not None and predictions.is_file():
        stated = content["outputs"]["predictions"]["sha256"]
        if record.sha256_file(predictions) != stated:
            return [f"its predictions {predictions} are not those that it was counted from"]
    return []


def _score_or_fault(path: Path) -> dict[str, Any] | str:
    content = _sealed_json(path)
    if isinstance(content, str):
        return content
    if (content["run"], content["evaluation"]) != (path.parent.name, path.stem):
        return f"it is the score of {content['run']} on {content['evaluation']}"
    return content


def _sealed_json(path: Path) -> dict[str, Any] | str:
    """The content, or what is wrong with it."""
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        return f"{path.name} is no JSON ({error})"
    if not isinstance(content, dict) or "seal" not in content:
        return f"{path.name} has no seal"
    if content["seal"] != record.seal_of(content):
        return f"{path.name} was changed after it was written"
    return content
