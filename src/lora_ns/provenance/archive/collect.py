"""The files of an archive: source path -> path in the archive."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lora_ns.config import parse_yaml, read_mapping
from lora_ns.errors import ConfigError
from lora_ns.experiment.study import Run, Study
from lora_ns.store.paths import Store

REPOSITORY = Path(__file__).resolve().parents[4]
CODE = ("src/lora_ns", "workflow", "profiles/default")
ROOT_FILES = ("Snakefile", "Makefile", "pyproject.toml", "requirements.lock", "environment.yml", "CHANGELOG.md", ".gitignore")


def files_of(experiment: Study, experiment_file: Path, store: Store) -> dict[Path, str]:
    """Return configs, requests, scores, tables, records, code and environment of an experiment; no weights, no data."""
    found = {**_code(), **_configs(experiment_file)}
    runs = {run.name: run for run in [*experiment.runs, *experiment.bases, *(trial.run for trial in experiment.trials)]}
    for run in runs.values():
        found |= {path: path.relative_to(store.root).as_posix() for path in _files_of_run(run, store)}
    for folder in (store.tables(experiment.name), store.figures(experiment.name), store.report(experiment.name)):
        found |= {path: path.relative_to(store.root).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()}
    single = [store.metrics(experiment.name), store.points(experiment.name), store.root / "results/runs/local_files.json"]
    single += [experiment.choice] if experiment.choice is not None else []
    found |= {path: path.relative_to(store.root).as_posix() for path in single if path.is_file()}
    return found | _records(list(runs.values()), store)


def _code() -> dict[Path, str]:
    """Return the package, the workflow and the files that define the environment."""
    tracked = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard", "--", *CODE],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    names = tracked or [
        path.relative_to(REPOSITORY).as_posix()
        for folder in CODE
        for path in sorted((REPOSITORY / folder).rglob("*"))
        if "__pycache__" not in path.parts
    ]
    return {REPOSITORY / name: name for name in (*names, *ROOT_FILES) if (REPOSITORY / name).is_file()}


def _configs(experiment_file: Path) -> dict[Path, str]:
    """Return the experiment file and all files that it names, directly or not, at the paths where they are looked up."""
    content = read_mapping(experiment_file)
    entries = [*content["tasks"], *content["methods"]]
    named = [Path(entry["config"] if isinstance(entry, dict) else entry) for entry in entries]
    beside = [path if path.is_file() else experiment_file.parent / path for path in named]
    found, seen = {}, set[Path]()
    for file in (experiment_file, *beside):
        found[file] = _inside(file) or f"configs/{file.name}"
        for path in _named_by(file, seen):
            place = _inside(path)
            if place is None:
                raise ConfigError(
                    f"{file} names {path}, which lies outside of this folder, so that it would not be found from an archive: "
                    "copy it beside the config."
                )
            found[path] = place
    return found


NAMING = ("chat_template", "adapter_config", "deepspeed", "deepspeed_config_file", "fsdp_config")
"""Config keys whose value may be the path of another file; `launch.config` is one more."""


def _named_by(file: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files that a config extends or names, recursively."""
    if file.resolve() in seen:
        return
    seen.add(file.resolve())
    content = _mapping(file)
    extended, launch = content.get("extends", []), content.get("launch")
    names = [extended] if isinstance(extended, str) else extended
    words = [*_words(content), *([launch.get("config")] if isinstance(launch, dict) else [])]
    beside = [path for word in words if word for path in (Path(word), file.parent / word)]
    for path in [*(file.parent / name for name in names), *filter(os.path.isfile, beside)]:
        yield path
        yield from _named_by(path, seen)


def _mapping(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file; {} for any other file."""
    try:
        content = parse_yaml(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _words(value: Any) -> Iterator[str]:
    """Yield every one-line text under a key of NAMING, at any depth."""
    for inner in value if isinstance(value, list) else ():
        yield from _words(inner)
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in NAMING and isinstance(inner, str) and "\n" not in inner:
            yield inner
        yield from _words(inner)


def _inside(path: Path) -> str | None:
    """Return the path relative to the current folder, None if the file is outside."""
    here = Path(os.path.normpath(path.absolute()))
    return here.relative_to(Path.cwd()).as_posix() if here.is_relative_to(Path.cwd()) else None


def _files_of_run(run: Run, store: Store) -> Iterator[Path]:
    """Yield the run file, evaluation requests and scores that exist."""
    paths = [store.run_file(run.name), *run.scores, *(store.evaluation_file(e.name) for e in run.evaluations)]
    yield from (path for path in paths if path.is_file())


def _records(runs: list[Run], store: Store) -> dict[Path, str]:
    """Return the records of adapters, data and models, and the model cards of merged models, without weights and data."""
    folders = [folder for run in runs for folder in _artefacts_of(run, store)]
    found: dict[Path, str] = {}
    for folder in dict.fromkeys(folders):
        place = folder.relative_to(store.root).as_posix()
        names = ("record.json", "README.md") if "/merged/" in f"/{place}" else ("record.json",)
        found |= {folder / name: f"records/{place}/{name}" for name in names if (folder / name).is_file()}
    return found


def _artefacts_of(run: Run, store: Store) -> Iterator[Path]:
    yield run.adapter
    yield run.merged
    if run.config.peft.method != "none":
        yield from (*map(store.rows, run.training_data), run.tokens)
    yield from (store.rows(evaluation.dataset) for evaluation in run.evaluations)
    if run.base_folder is not None:
        yield run.base_folder
