"""Lineage of a score, an adapter or a data artefact, from the local records; nothing is made or downloaded."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.config import DatasetConfig, RunConfig, load_config
from lora_ns.errors import ConfigError, DamagedError, InputError
from lora_ns.store.artifact import is_finished
from lora_ns.store.digests import rows_identity
from lora_ns.store.evaluation_file import EvaluationRequest, read_checked_evaluation, read_evaluation
from lora_ns.store.integrity import faults, load_verified, load_verified_score, score_faults
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run


def trace_score(path: Path, store: Store) -> dict[str, Any]:
    """Return a score's metrics, predictions, evaluation request, adapter, data, code, versions and machine."""
    run, name = path.parent.name, path.stem
    found = {"kind": "score", "path": str(path), "state": _score_state(path, store)}
    if not path.is_file():
        return found | {"made_again_by": f"lora-ns verify {_quoted(path)}"}
    content = read_score(path)
    about = ("task", "model", "method", "seed", "benchmark", "main_metric", "metrics", "num_examples", "warnings")
    evaluation = _evaluation(store, name)
    return found | {
        **{key: content.get(key) for key in about},
        "predictions": _predictions(content, store),
        "evaluation_file": _evaluation_file(store.evaluation_file(name), store),
        "rows": _rows(evaluation.dataset, store) if evaluation else None,
        "evaluated": _how(content),
        "adapter": trace_adapter(run, store, content.get("trained")),
        "made_again_by": f"lora-ns verify {_quoted(path)}",
        "made_first_by": f"lora-ns evaluate --config {_quoted(store.run_file(run))} "
        f"--evaluation {_quoted(store.evaluation_file(name))}",
    }


def read_score(path: Path) -> dict[str, Any]:
    """Return the content of a score file without checking its checksum.  Raises DamagedError if it is no readable score."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not {"run", "evaluation", "metrics", "method", "seed"} <= set(content):
        return load_verified_score(path)
    return content


def trace_adapter(run: str, store: Store, from_score: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an adapter's files, run file, training stage and data.  Raises ConfigError if nothing of the run is here.

    from_score: the training record inside a score file, used if the adapter is not here.
    """
    folder = store.adapter(run)
    if not (folder.exists() or store.run_file(run).is_file() or from_score):
        raise ConfigError(f"there is no run {run!r}: neither its run file nor its adapter is here.")
    trained: Mapping[str, Any] = load_verified(folder) if not faults(folder) else from_score or {}
    config = _config(store, run)
    found = {
        "kind": "adapter",
        "path": str(folder),
        "state": state_of(folder),
        "files": {name: facts["sha256"] for name, facts in (trained.get("outputs") or {}).items()},
        "run_file": _file(store.run_file(run)),
        "trained": _how(trained) if trained else None,
        "steps": trained.get("steps"),
        "made_again_by": f"lora-ns verify {run}",
        "made_first_by": f"lora-ns train --config {_quoted(store.run_file(run))}",
    }
    if from_score and is_finished(folder) and not faults(folder):
        scored = from_score.get("outputs")
        found["is_the_one_scored"] = None if scored is None else scored == trained["outputs"]
    return found if config is None else found | _data_of(Run(config, store))


def _data_of(run: Run) -> dict[str, Any]:
    """Return the base model, tokens and rows of a run."""
    return {
        "base_model": {"name": run.config.model.name_or_path, **_said(lambda: run.model_identity)},
        "tokens": None if run.config.peft.method == "none" else _artefact(run.tokens),
        "rows": None if run.config.peft.method == "none" else _rows(run.config.dataset, run.store),
    }


def trace_artefact(folder: Path) -> dict[str, Any]:
    """Return the record of rows, tokens, a base model or a merged model.  Raises DamagedError if a file is damaged."""
    content = load_verified(folder)
    return {
        "kind": content["stage"],
        "path": str(folder),
        "state": "intact",
        "inputs": content["inputs"],
        "files": {name: facts["sha256"] for name, facts in content["outputs"].items()},
        "made": _how(content),
    }


def state_of(folder: Path) -> str:
    """Return `intact`, `not here`, or `damaged: …` with the faults."""
    if not folder.exists():
        return "not here"
    found = faults(folder)
    return f"damaged: {'; '.join(found)}" if found else "intact"


def _score_state(path: Path, store: Store) -> str:
    if not path.is_file():
        return "not here"
    found = score_faults(path, store.predictions(path.parent.name, path.stem))
    return f"damaged: {'; '.join(found)}" if found else "intact"


def _predictions(content: Mapping[str, Any], store: Store) -> dict[str, Any]:
    path = store.predictions(content["run"], content["evaluation"])
    stated = ((content.get("outputs") or {}).get("predictions") or {}).get("sha256")
    state = "not here" if not path.is_file() else "intact" if sha256_file(path) == stated else "damaged: changed since"
    return {"path": str(path), "state": state, "sha256": stated}


def _how(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return code, versions and machine of one stage."""
    around = content.get("circumstances") or {}
    return {
        "code": content.get("code"),
        "packages": content.get("packages"),
        "hardware": around.get("hardware"),
        "processes": around.get("processes"),
        "not_deterministic": around.get("not_deterministic"),
        "finished": around.get("finished"),
    }


def _artefact(folder: Path) -> dict[str, Any]:
    return {"path": str(folder), "state": state_of(folder)}


def _rows(dataset: DatasetConfig, store: Store) -> dict[str, Any]:
    """Return the artefact of the rows and its source: revision, checksums or version."""
    found: dict[str, Any] = {"name": dataset.name}
    try:
        found |= {"source": rows_identity(dataset, store.remembered)["source"], **_artefact(store.rows(dataset))}
    except InputError as error:
        found["state"] = f"unknown: {error}"
    return found


def _file(path: Path) -> dict[str, Any]:
    here = path.is_file()
    return {"path": str(path), "state": "here" if here else "not here", "sha256": sha256_file(path) if here else None}


def _evaluation_file(path: Path, store: Store) -> dict[str, Any]:
    found = _file(path)
    if path.is_file():
        try:
            read_checked_evaluation(path, store)
        except InputError as error:
            found["state"] = f"damaged: {error}"
    return found


def _config(store: Store, run: str) -> RunConfig | None:
    path = store.run_file(run)
    return load_config(path) if path.is_file() else None


def _evaluation(store: Store, name: str) -> EvaluationRequest | None:
    path = store.evaluation_file(name)
    return read_evaluation(path) if path.is_file() else None


def _said(look: Any) -> dict[str, Any]:
    """Return the identity from `look`, or the reason why it is unknown."""
    try:
        return {"identity": look()}
    except (InputError, DamagedError) as error:
        return {"identity": None, "state": f"unknown: {error}"}


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
