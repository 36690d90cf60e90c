"""Local files of data sets and base models: their splits and checksums, also for files not on this machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from lora_ns.config import FILE_KINDS, DatasetConfig, ModelConfig, file_kind, nearest
from lora_ns.config.text_files import replace_text
from lora_ns.errors import DamagedError, DataError

STEMS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test",)}
"""Split -> file names that hold it in a folder."""


ALSO_CALLED = {"validation_matched": ("dev_matched",), "validation_mismatched": ("dev_mismatched",)}
"""GLUE's file names for MNLI's two validation sets."""


def files_by_split(dataset: DatasetConfig, remembered: Mapping[str, str]) -> dict[str, list[tuple[str, Path]]]:
    """Return split -> (kind, path) of its files.  Raises DataError for a missing file or an unknown kind."""
    name = dataset.name
    if isinstance(name, dict):
        unknown = [key for key in name if key not in STEMS]
        if unknown:
            raise DataError(f"dataset.name: {unknown[0]!r} is no split.{nearest(unknown[0], STEMS)} Known: {', '.join(STEMS)}.")
        roles = {"train": dataset.train_split, "validation": "validation", "test": dataset.eval_split}
        return {roles[split]: [_known(file, dataset, remembered) for file in files] for split, files in name.items()}
    if isinstance(name, str) and (listed := files_in(Path(name).expanduser(), remembered)) is not None:
        return _folder(Path(name).expanduser(), listed, dataset)
    names = [name] if isinstance(name, str) else name
    files = [_known(file, dataset, remembered) for file in names]
    under = dataset.train_split
    if all(path.name.split(".")[0].lower() in STEMS["test"] for _, path in files):
        under = dataset.eval_split  # a set for evaluation only
    return {under: files}


def _known(file: str, dataset: DatasetConfig, remembered: Mapping[str, str]) -> tuple[str, Path]:
    path = Path(file).expanduser()
    if path.is_dir():
        raise DataError(f"dataset.name: {file} is a folder; among several files, name files.")
    if not path.is_file() and str(path) not in remembered:
        hint = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise DataError(f"dataset.name: there is no file {file}.{hint}")
    kind = dataset.file_kind or file_kind(path)
    if kind is None:
        raise DataError(
            f"dataset.name: {file}: unknown ending; known: {', '.join(FILE_KINDS)} (each also with .gz). Or say by "
            "dataset.file_kind how it is read."
        )
    return kind, path


def files_in(folder: Path, remembered: Mapping[str, str]) -> list[Path] | None:
    """The paths in a folder, or its remembered files if the folder is missing.  None if neither is known."""
    if folder.is_dir():
        return sorted(folder.iterdir())
    return None if folder.exists() else [path for path in map(Path, remembered) if path.parent == folder] or None


def _folder(folder: Path, listed: list[Path], dataset: DatasetConfig) -> dict[str, list[tuple[str, Path]]]:
    """Return a folder's files by split, found by their names: train.jsonl, dev.tsv, test-00000.parquet …

    A file of a split named in the config belongs to no default split.  With eval_split dev, dev.jsonl is not validation.
    """
    found: dict[str, list[tuple[str, Path]]] = {}
    named = list(filter(None, (dataset.train_split, dataset.validation_split, dataset.eval_split)))
    for split in dict.fromkeys([*named, *STEMS]):
        stems = {split.lower(), *STEMS.get(split, ()), *ALSO_CALLED.get(split, ())}
        taken = {path for files in found.values() for _, path in files} if split not in named else set()
        for path in listed:
            kind = None if path.is_dir() else dataset.file_kind or file_kind(path)
            if kind and path not in taken and path.name.split(".")[0].split("-")[0].lower() in stems:
                found.setdefault(split, []).append((kind, path))
    if not found:
        names = ", ".join(path.name for path in listed[:10]) or "nothing"
        raise DataError(
            f"dataset.name: folder {folder} holds no file named after a split (train, dev, test …); it holds {names}."
        )
    return found


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _sha256_at(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def remembered_sha256(path: Path, remembered: Mapping[str, str]) -> str:
    """The sha256 of a file.  If the file is not on this machine, the remembered one."""
    if not path.is_file():
        return remembered[str(path)]
    status = path.stat()
    return _sha256_at(path, status.st_size, status.st_mtime_ns)


class LocalFiles:
    """The checksums of local data files and base models, kept in git: a clone without the files knows their digests."""

    def __init__(self, path: Path):
        self._path = path
        self._checksums: dict[str, str] | None = None

    @property
    def checksums(self) -> dict[str, str]:
        """Path -> sha256, as last seen."""
        if self._checksums is None:
            self._checksums = _read_ledger(self._path) if self._path.is_file() else {}
        return self._checksums

    def remember(self, dataset: DatasetConfig) -> None:
        """Stores the checksums of the dataset's local files."""
        if dataset.is_builtin or dataset.is_hub:
            return
        files = files_by_split(dataset, self.checksums)
        self._add([path for parts in files.values() for _, path in parts])

    def remember_model(self, model: ModelConfig) -> None:
        """Stores the checksums of a base model in a folder."""
        self._add(self.of_model(model) or [])

    def of_model(self, model: ModelConfig) -> list[Path] | None:
        """The files of a base model in a folder; None for a built-in model or one of the hub."""
        if model.name_or_path.startswith("builtin:"):
            return None
        listed = files_in(Path(model.name_or_path).expanduser(), self.checksums)
        return listed and [path for path in listed if not path.is_dir() and path.suffix != ".md"]

    def _add(self, files: Sequence[Path]) -> None:
        seen = {str(path): remembered_sha256(path, self.checksums) for path in files}
        if not seen.items() <= self.checksums.items():
            self._checksums = None  # another stage may have added its own files meanwhile
            self._checksums = dict(sorted({**self.checksums, **seen}.items()))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._path, json.dumps(self._checksums, indent=1) + "\n")


def _read_ledger(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is damaged: bring it back (`git checkout {path}`), or remove it where nothing is kept.")
    return found
