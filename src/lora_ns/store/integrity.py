"""Check artefacts against their records.  Every stage checks its inputs before it reads them.

An artefact's record states the sha256 of each of its files, and its own as `seal`.  A score file has a `seal` too.
Tables and figures are checked against the record in the tables folder.
"""

import json
from pathlib import Path
from typing import Any

from lora_ns.errors import DamagedError
from lora_ns.store import record
from lora_ns.store.local_files import sha256_file

REMEDY = "It is not used. Bring it back (`git checkout`, `dvc checkout --force`), or remove it and it is made again."


def load_verified(folder: Path, *, elsewhere: bool = False) -> dict[str, Any]:
    """Return the record of an intact artefact.  Raises DamagedError that lists the faults.

    elsewhere: the artefact is outside the store, so any folder name and extra files are allowed.
    """
    found = faults(folder, elsewhere=elsewhere)
    if found:
        raise DamagedError(f"{folder} is damaged: {'; '.join(found)}. {REMEDY}")
    content: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return content


def faults(folder: Path, *, elsewhere: bool = False) -> list[str]:
    """The faults of an artefact, with file names.  Empty if it is intact."""
    if not folder.is_dir():
        return ["it is not here"]
    content = _sealed_json(folder / "record.json")
    if isinstance(content, str):
        return [content]
    if not elsewhere and not folder.name.endswith(f"-{content['digest']}"):
        return [f"record.json is that of another artefact ({content['stage']}, digest {content['digest']})"]
    found = []
    for name, stated in content["outputs"].items():
        if fault := _file_fault(folder / name, stated):
            found.append(f"{name} {fault}")
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if elsewhere:
        return found
    strange = sorted(name for name in here - {"record.json", *content["outputs"]} if not _hidden(name))
    return found + [f"{name} is not of it" for name in strange]


def _hidden(name: str) -> bool:
    """Whether a file is hidden, like .DS_Store."""
    return name.rsplit("/", 1)[-1].startswith(".")


def _file_fault(path: Path, stated: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != stated["bytes"]:
        return f"has {path.stat().st_size} bytes, its record says {stated['bytes']}"
    found = sha256_file(path)
    return None if found == stated["sha256"] else f"has sha256 {found[:12]}…, its record says {stated['sha256'][:12]}…"


def load_verified_score(path: Path) -> dict[str, Any]:
    """Return the content of an intact score file.  Raises DamagedError that states the fault."""
    content = _score_or_fault(path)
    if isinstance(content, str):
        raise DamagedError(f"{path} is damaged: {content}. {REMEDY}")
    return content


def score_faults(path: Path, predictions: Path | None = None) -> list[str]:
    """The faults of a score file and of its predictions, if these are here."""
    content = _score_or_fault(path)
    if isinstance(content, str):
        return [content]
    if predictions is not None and predictions.is_file():
        stated = content["outputs"]["predictions"]["sha256"]
        if sha256_file(predictions) != stated:
            return [f"its predictions {predictions} are not those that it was counted from"]
    return []


def _score_or_fault(path: Path) -> dict[str, Any] | str:
    content = _sealed_json(path)
    if isinstance(content, str):
        return content
    if (content["run"], content["evaluation"]) != (path.parent.name, path.stem):
        return f"it is the score of {content['run']} on {content['evaluation']}"
    return content


def read_tables_record(path: Path) -> dict[str, Any]:
    """Return the record of an experiment's tables.  Raises DamagedError if it cannot be read."""
    content = _read_json(path)
    if isinstance(content, dict) and {"experiment", "inputs", "missing", "outputs"} <= set(content):
        return content
    said = content if isinstance(content, str) else f"{path.name} is no record of tables"
    raise DamagedError(f"{path} is damaged: {said}. {REMEDY}")


def tables_faults(path: Path, root: Path) -> list[str]:
    """The faults of the tables and figures in a record, and its missing inputs.

    root: the folder that the record's paths are relative to.
    """
    try:
        content = read_tables_record(path)
    except DamagedError as error:
        return [str(error)]
    found = [f"{name} {fault}" for name, sha in content["outputs"].items() if (fault := output_fault(root / name, sha))]
    gone = [name for name in content["inputs"] if not (root / name).is_file()]
    return found + [f"{name}, which they are made from, is missing" for name in gone]


def output_fault(path: Path, sha256: str) -> str | None:
    """The fault of one output file.  None if it matches its checksum."""
    if not path.is_file():
        return "is missing"
    return None if sha256_file(path) == sha256 else "was changed after it was made"


def _sealed_json(path: Path) -> dict[str, Any] | str:
    """Return the content of a JSON file, or the fault if its seal is missing or wrong."""
    content = _read_json(path)
    if isinstance(content, str):
        return content
    if "seal" not in content:
        return f"{path.name} has no seal"
    if content["seal"] != record.seal_of(content):
        return f"{path.name} was changed after it was written"
    return content


def _read_json(path: Path) -> dict[str, Any] | str:
    """Return the content of a JSON file, or why it cannot be read.  NaN is a fault, as no stage writes it."""
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (UnicodeDecodeError, ValueError) as error:
        return f"{path.name} is no JSON ({error})"
    return content if isinstance(content, dict) else f"{path.name} has no seal"


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} in place of a number")
