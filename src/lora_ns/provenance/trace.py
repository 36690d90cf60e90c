"""Trace any file under results/ or data/ back to its inputs, as plain values."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lora_ns.config import load_config
from lora_ns.errors import ConfigError, DamagedError
from lora_ns.provenance.cell_address import TableCell, find_cell, metric_of, split_address
from lora_ns.provenance.lineage import read_score, trace_adapter, trace_artefact, trace_score
from lora_ns.store.environment import code_state
from lora_ns.store.integrity import REMEDY, output_fault, read_tables_record
from lora_ns.store.paths import Store

KINDS = {"tables": "table", "figures": "figure", "report": "report"}
"""Folder of results/ -> kind of its files."""


def trace(target: str, store: Store) -> dict[str, Any]:
    """Return the origin of PATH, or of the cell PATH:row,column; `made_again_by` is the command that reproduces it.

    Raises ConfigError if the target is no artefact, InputError or DamagedError if an artefact cannot be read.
    """
    path, words = split_address(target)
    parts = _inside(path, store)
    if words and parts[:2] != ("results", "tables"):
        raise ConfigError(f"{target}: only files of results/tables have cells.")
    match parts:
        case ("results", "tables" | "figures" | "report", experiment, *_):
            found = trace_tables(path, experiment, words, store)
        case ("results", "scores", run, name):
            found = trace_score(store.score(run, Path(name).stem), store)
        case ("results", "predictions", run, name):
            found = trace_score(store.score(run, Path(name).stem), store)
        case ("results", "adapters", run, *_):
            found = trace_adapter(run, store)
        case ("results", "runs", name):
            found = trace_adapter(Path(name).stem, store)
        case ("results", "merged", name, *_):
            found = trace_merged(store.root / "results/merged" / name, store)
        case ("data", "raw" | "tokens" | "models" as room, name, *_):
            found = trace_artefact(store.root / "data" / room / name)
        case _ if store.run_file(target).is_file():
            found = trace_adapter(target, store)
        case _:
            raise ConfigError(
                f"{target!r} is no artefact: give a run's name or a path in results/tables, figures, scores, predictions, "
                "adapters, runs, merged, or in data/raw, tokens, models."
            )
    return {"target": target, **found, "here": {"code": code_state()}}


def trace_tables(path: Path, experiment: str, words: Sequence[str], store: Store) -> dict[str, Any]:
    """Return the scores behind a table, a figure or one cell of a table."""
    made = tables_record(experiment, store)
    kind = KINDS[_inside(path, store)[1]]
    state = state_of_table(path, made, store)
    scores = [store.root / name for name in score_files(made, store, of_search=path.stem == "tuning")]
    if not words:
        return {
            "kind": kind,
            "path": str(path),
            "state": state,
            "experiment": made["experiment"],
            "scores": [{"path": str(file), "here": file.is_file()} for file in scores],
            "missing": made["missing"],
            "made_again_by": f"lora-ns {'report' if kind == 'report' else 'tables'} {experiment_file(experiment, made, store)}",
        }
    cell = find_cell(path, words)
    behind = behind_cell(cell, store)
    absent = [file for file in scores if not file.is_file()]
    contents = {file: read_score(file) for file in behind}
    metrics = list(dict.fromkeys(metric for file in behind for metric in contents[file]["metrics"]))
    metric = metric_of(cell, metrics)
    return {
        "kind": "cell",
        "path": str(path),
        "state": state,
        "row": cell.row.number,
        "row_speaks_of": {"section": cell.row.section, **cell.row.speaks_of},
        "column": cell.column,
        "text": cell.text,
        "metric": metric,
        "values": [{"seed": contents[f]["seed"], "value": contents[f]["metrics"].get(metric)} for f in behind],
        "scores": [trace_score(file, store) for file in behind],
        "not_here": [str(file) for file in absent if may_be_behind(file, cell, store)],
        "made_again_by": f"lora-ns verify {shlex.quote(cell.address)}",
    }


def behind_cell(cell: TableCell, store: Store) -> list[Path]:
    """Return the score files behind a cell, sorted by method and seed.  Raises ConfigError if there are none."""
    made, table = tables_record(cell.path.parent.name, store), cell.path.stem
    files = [store.root / name for name in score_files(made, store, of_search=table == "tuning")]
    contents = {file: read_score(file) for file in files if file.is_file()}
    found = [
        file
        for file, content in contents.items()
        if _is_asked(content["evaluation"], made, table)
        and _is_of_method(content["method"], content.get("peft_method"), cell, made)
        and _is_behind(content, cell)
    ]
    if "score_file" in cell.row.speaks_of:
        found = [file for file in found if file.as_posix().endswith(cell.row.speaks_of["score_file"])]
    if not found:
        raise ConfigError(f"{cell.address}: no score is behind it; the cell says {cell.text!r}.")
    return sorted(found, key=lambda file: (contents[file]["method"], contents[file]["seed"], str(file)))


def may_be_behind(file: Path, cell: TableCell, store: Store) -> bool:
    """Whether a score file that is not here may be behind the cell, according to its run file."""
    made, run_file = tables_record(cell.path.parent.name, store), store.run_file(file.parent.name)
    if not run_file.is_file():
        return True
    config = load_config(run_file)
    if not _is_asked(file.stem, made, cell.path.stem) or not _is_of_method(config.method, config.peft.method, cell, made):
        return False
    said = {"task": config.task_name, "seed": str(config.seed), "run": file.parent.name}
    speaks = cell.row.speaks_of
    return all(speaks.get(key, value) == value for key, value in said.items())


def state_of_table(path: Path, made: Mapping[str, Any], store: Store) -> str:
    """Return `intact`, `damaged: …` or `unknown: …` (a file that the tables' record does not list).

    For Markdown and LaTeX, tables.json is checked too.  Raises ConfigError if the file does not exist.
    """
    name = "/".join(_inside(path, store))
    if name not in made["outputs"] and not path.is_dir():
        if not path.exists():
            raise ConfigError(f"there is no file {path}, and the tables' record does not speak of one.")
        return "unknown: the tables' record does not speak of it"
    names = {name}
    if path.suffix in (".md", ".tex"):
        names.add("/".join(_inside(path.parent / "tables.json", store)))
    found = [
        f"{name} {fault}"
        for name, sha in made["outputs"].items()
        if name in names and (fault := output_fault(store.root / name, sha))
    ]
    return f"damaged: {'; '.join(found)}" if found else "intact"


def _is_asked(evaluation: str, made: Mapping[str, Any], table: str) -> bool:
    """Whether a table uses an evaluation: general text belongs to the forgetting table, and nothing else does."""
    if table == "values" or "general" not in made:  # values.csv has every score; old records lack `general`
        return True
    return (evaluation in made["general"]) == (table == "forgetting")


def _is_of_method(method: str, peft_method: str | None, cell: TableCell, made: Mapping[str, Any]) -> bool:
    """Whether the cell depends on a method: the row's own, its baseline or base model, or any method if it is a rank."""
    table, speaks = cell.path.stem, cell.row.speaks_of
    if table == "over_tasks" or cell.column == "rank" or (table == "forgetting" and peft_method == "none"):
        return True
    baseline = made["experiment"]["baseline"] if table == "comparison" else None
    return method in (speaks.get("method"), speaks.get("baseline"), baseline)


def _is_behind(content: Mapping[str, Any], cell: TableCell) -> bool:
    """Whether the score matches the cell's row in task, benchmark, model, seed, run and section; the method is not checked."""
    speaks, section = cell.row.speaks_of, cell.row.section
    if any(key in speaks and speaks[key] != str(content[key]) for key in ("task", "benchmark", "model", "seed", "run")):
        return False
    titles = [_title(content, "task", "benchmark", "model"), _title(content, "task", "model")]
    return not section or section in titles or section.startswith(f"{content['task']}, chosen by ")


def _title(content: Mapping[str, Any], *keys: str) -> str:
    """Return a section heading of the tables: the non-empty values of the keys."""
    return ", ".join(str(content[key]) for key in keys if content[key])


def trace_merged(folder: Path, store: Store) -> dict[str, Any]:
    """Return the record of a merged model and the lineage of its adapter."""
    found = trace_artefact(folder)
    run = str(found["inputs"]["adapter"])
    command = f"lora-ns merge --config {shlex.quote(str(store.run_file(run)))}"
    return {**found, "adapter": trace_adapter(run, store), "made_again_by": command}


def tables_record(experiment: str, store: Store) -> dict[str, Any]:
    """Return the newest record of an experiment's tables.

    Raises ConfigError if the tables were never made, DamagedError if the record cannot be read.
    """
    folder = store.tables(experiment)
    records = sorted(folder.glob("record-*.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise ConfigError(f"{folder} holds no record of what its tables were made from; `lora-ns tables` makes them.")
    return read_tables_record(records[-1])


def score_files(made: Mapping[str, Any], store: Store, *, of_search: bool = False) -> list[str]:
    """Return the score files behind tables, as paths from the root; of_search: those of the search's trials instead."""
    choices = [name for name in made["inputs"] if name.startswith("results/tuning/")]
    if not of_search:
        return [name for name in made["inputs"] if name not in choices]
    return [f"results/scores/{score}" for name in choices for score in _choice(store.root / name)["inputs"]]


def _choice(path: Path) -> dict[str, Any]:
    """Read a file of chosen settings.  Raises DamagedError if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}. {REMEDY}") from None
    if not isinstance(content, dict) or "inputs" not in content:
        raise DamagedError(f"{path} is damaged: it is no choice of settings. {REMEDY}")
    return content


def experiment_file(name: str, made: Mapping[str, Any], store: Store) -> str:
    """Return the shell-quoted path of the experiment file with that name, or a placeholder if none is found.

    made: the tables' record, which states the path at the time.
    """
    said = made.get("experiment_file")
    if said and (store.root / said).is_file():
        return shlex.quote(said)
    for folder in ("configs/experiments", "."):
        for path in sorted((store.root / folder).glob("*.yaml")):
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except yaml.YAMLError:
                continue
            if isinstance(content, dict) and content.get("name") == name and "tasks" in content:
                return shlex.quote(str(path))
    return f"<the experiment file named {name}>"


def _inside(path: Path, store: Store) -> tuple[str, ...]:
    """Return the path's parts below the root, or () if it is outside."""
    whole, root = Path(os.path.normpath(path.absolute())), store.root.absolute()
    return whole.relative_to(root).parts if whole.is_relative_to(root) else ()
