"""Rerun a run in a scratch store and compare it with the stored results: bit by bit if possible, else within a tolerance.

A run's results are stored twice: the adapter in DVC, and its checksums and loss curve inside each score file in git.
So a clone without any adapter can verify too.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_ns.config import load_config
from lora_ns.errors import DamagedError, Interrupted, LoraNsError, TrainingError
from lora_ns.provenance.compare_parts import (
    Part,
    compare_curves,
    compare_predictions,
    compare_scores,
    compare_weights,
    environment_differences,
    read_history,
    worst,
)
from lora_ns.store.artifact import is_finished
from lora_ns.store.environment import code_state, package_versions
from lora_ns.store.evaluation_file import read_checked_evaluation
from lora_ns.store.history import thinned_history
from lora_ns.store.integrity import faults, load_verified, score_faults
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_adapters, make_score


@dataclass(frozen=True)
class Verified:
    """The outcome of rerunning one run.

    state: identical, within, unknown, different, or damaged (the stored files do not match their record).
    """

    run: str
    state: str
    parts: list[Part] = field(default_factory=list)
    environment: dict[str, list[Any]] = field(default_factory=dict)
    """name -> [then, now] of the code, versions and hardware that changed. Empty if the results are identical."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for --json."""
        parts = [part.to_dict() for part in self.parts]
        return {"run": self.run, "state": self.state, "parts": parts, "environment": self.environment}


@dataclass(frozen=True)
class Original:
    """The stored results of a run: scores by evaluation, and the adapter's record (from a score file if it is absent)."""

    run: str
    scores: dict[str, dict[str, Any]]
    trained: dict[str, Any]
    history: list[dict[str, Any]]
    """Every logged step if the adapter is here, else the thinned curve of a score file."""
    adapter: Path | None


def verify(run: str, store: Store, scratch: Store, *, evaluations: Sequence[str], tolerance: float) -> Verified:
    """Rerun a run in the scratch store and compare it with the stored results.

    evaluations: names of the evaluations to rerun too.  tolerance: the greatest difference that counts as `within`;
    relative to the greatest weight or to the loss, absolute for metrics and probabilities.
    """
    try:
        return _verify(run, store, scratch, evaluations, tolerance)
    except Interrupted:
        raise
    except LoraNsError as error:  # one failure must not stop the verification of the other runs
        state = "damaged" if isinstance(error, DamagedError) else "unknown"
        said = str(error).replace(str(scratch.root), str(store.root))
        return Verified(run, state, [Part("run", "different" if state == "damaged" else "unknown", said)])


def _verify(run: str, store: Store, scratch: Store, evaluations: Sequence[str], tolerance: float) -> Verified:
    damaged = _damage(run, store, scratch, evaluations)
    if damaged:
        return Verified(run, "damaged", damaged)
    kept = _kept(run, store, evaluations)
    if kept is None:
        return Verified(run, "unknown", [Part("run", "unknown", "nothing of it is kept: neither adapter nor score")])
    again = Run(load_config(store.run_file(run)), scratch)
    if again.name != run:
        said = f"this code calls it {again.name}: what a stage means has changed since"
        return Verified(run, "different", [Part("run file", "different", said)], _then_and_now(kept, None))
    company, parts = _company(kept, store, tolerance)
    with _threads(kept):
        try:
            adapter = _made_again(again, kept, company, store)
        except TrainingError as error:
            return _diverged(kept, str(error))
        parts += _compare_adapters(kept, adapter, tolerance)
        for name, score in kept.scores.items():
            parts += _compare_evaluations(again, name, score, store, tolerance)
    state = worst(parts)
    return Verified(run, state, parts, {} if state == "identical" else _then_and_now(kept, load_verified(adapter)))


@contextmanager
def scratch_beside(store: Store, *, from_scratch: bool = False, keep: bool = False) -> Iterator[Store]:
    """Yield an empty store under results/scratch that shares the rows, tokens and base models of this one.

    from_scratch: share nothing, so that those are made again too.  keep: do not delete the scratch store afterwards.
    """
    root = store.root / "results/scratch" / f"verify-{os.getpid()}"
    root.mkdir(parents=True)
    if not from_scratch:
        (store.root / "data").mkdir(exist_ok=True)
        (root / "data").symlink_to((store.root / "data").resolve(), target_is_directory=True)
    ledger = store.root / "results/runs/local_files.json"
    if ledger.is_file():
        (root / "results/runs").mkdir(parents=True)
        shutil.copy(ledger, root / "results/runs/local_files.json")
    try:
        yield Store(root)
    finally:
        if not keep:
            shutil.rmtree(root)


def _company(kept: Original, store: Store, tolerance: float) -> tuple[list[str], list[Part]]:
    """Return (the runs that were trained together with this one, itself included; a note about them).

    If one of their run files is missing, the run is retrained alone. Rounding then differs, so it is never `identical`.
    """
    names = (kept.trained.get("circumstances") or {}).get("fused_with") or []
    missing = [str(store.run_file(name)) for name in names if not store.run_file(name).is_file()]
    if not missing:
        return names, []
    said = (
        f"it was trained at once with {len(names) - 1} others, and {', '.join(missing)} is missing: this time it was trained "
        f"alone, and compared within {tolerance:g}"
    )
    return [], [Part("company", "within", said)]


def _made_again(run: Run, kept: Original, company: Sequence[str], store: Store) -> Path:
    """Retrain the adapter in the scratch store, with the original device batch size and the same runs beside it."""
    group = [Run(load_config(store.run_file(name)), run.store) for name in company]
    rows = (kept.trained.get("circumstances") or {}).get("rows_at_once")
    group = [_with_device_batch_size(one, rows) for one in (group if run.name in company else [run])]
    outcomes: dict[str, Path | LoraNsError] = {}
    make_adapters(group, lambda other, outcome: outcomes.update({other.name: outcome}), max_members=len(group), quiet=True)
    outcome = outcomes[run.name]
    if isinstance(outcome, LoraNsError):
        raise outcome
    return outcome


def _with_device_batch_size(run: Run, rows: int | None) -> Run:
    """Return the run with this device batch size: dropout depends on it, and out of memory may have lowered it."""
    if rows is None:
        return run
    training = run.config.training.model_copy(update={"per_device_train_batch_size": rows})
    return Run(run.config.model_copy(update={"training": training}), run.store)


def _damage(run: str, store: Store, scratch: Store, evaluations: Sequence[str]) -> list[Part]:
    """Return every fault in the stored results of a run and in the local data that it would be rerun from."""
    folder = store.adapter(run)
    found = [Part("adapter", "different", f"{folder}: {fault}") for fault in (faults(folder) if folder.exists() else [])]
    for name in evaluations:
        path = store.score(run, name)
        if path.is_file():
            found += [Part("score", "different", f"{path}: {f}") for f in score_faults(path, store.predictions(run, name))]
    shared = (scratch.root / "data").is_symlink()
    made_from = _made_from(run, store, evaluations) if shared and store.run_file(run).is_file() else {}
    for folder, kind in made_from.items():
        found += [Part(kind, "different", f"{folder}: {fault}") for fault in (faults(folder) if folder.exists() else [])]
    return found


def _made_from(run: str, store: Store, evaluations: Sequence[str]) -> dict[Path, str]:
    """Return folder -> kind of the artefacts under data/ that a run and its scores are made from."""
    known = Run(load_config(store.run_file(run)), store)
    found = {}
    if known.base_folder is not None:
        found[known.base_folder] = "base model"
    if known.config.peft.method != "none":
        found |= {store.rows(dataset): "rows" for dataset in known.training_data}
        found[known.tokens] = "tokens"
    for path in map(store.evaluation_file, evaluations):
        if path.is_file():
            found[store.rows(read_checked_evaluation(path, store).dataset)] = "rows"
    return found


def _kept(run: str, store: Store, evaluations: Sequence[str]) -> Original | None:
    paths = {name: store.score(run, name) for name in evaluations}
    scores = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
    folder = store.adapter(run)
    if is_finished(folder):
        return Original(run, scores, load_verified(folder), read_history(folder), folder)
    if not scores:
        return None
    of_score = next(iter(scores.values()))
    trained = of_score.get("trained") or {key: of_score[key] for key in ("code", "packages", "diverged")}
    return Original(run, scores, trained, trained.get("history") or [], None)


def _compare_adapters(kept: Original, adapter: Path, tolerance: float) -> list[Part]:
    made = load_verified(adapter)
    if "diverged" in kept.trained:
        return [Part("adapter", "different", f"it diverged ({kept.trained['diverged']}) and now it does not")]
    parts = [compare_weights(kept.trained["outputs"], made["outputs"], kept.adapter, adapter, tolerance)]
    if kept.history or made["steps"]:
        again = read_history(adapter) if kept.adapter else thinned_history(adapter)
        parts.append(compare_curves(kept.history, again, tolerance))
    return parts


def _compare_evaluations(again: Run, name: str, kept: dict[str, Any], store: Store, tolerance: float) -> list[Part]:
    """Rerun one evaluation and compare its predictions and score."""
    evaluation = read_checked_evaluation(store.evaluation_file(name), store)
    path = make_score(again, evaluation, quiet=True)
    made = json.loads(path.read_text(encoding="utf-8"))
    predictions = store.predictions(kept["run"], name)
    return [
        compare_predictions(
            predictions if predictions.is_file() else None,
            again.predictions(evaluation),
            kept["outputs"]["predictions"]["sha256"],
            made["outputs"]["predictions"]["sha256"],
            tolerance,
        ),
        compare_scores(kept, made, tolerance),
    ]


def _diverged(kept: Original, reason: str) -> Verified:
    before = kept.trained.get("diverged")
    state = "identical" if before == reason else "different"
    said = f"{f'diverged before: {before}; ' if before else ''}now: {reason}"
    return Verified(kept.run, state, [Part("adapter", state, said)], {} if before else _then_and_now(kept, None))


def _then_and_now(kept: Original, made: dict[str, Any] | None) -> dict[str, list[Any]]:

    now = made or {"code": code_state(), "packages": package_versions()}
    then = kept.trained if made else {key: kept.trained[key] for key in ("code", "packages")}
    return environment_differences(then, now)


@contextmanager
def _threads(kept: Original) -> Iterator[None]:
    """Use the original number of threads: sums are split by thread, so their last bits depend on it."""
    import torch

    before = torch.get_num_threads()
    hardware = (kept.trained.get("circumstances") or {}).get("hardware") or {}
    torch.set_num_threads(hardware.get("threads") or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
