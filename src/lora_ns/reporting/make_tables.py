"""Scores to tables and figures; never trains.

READS   results/scores, results/tuning, results/failures
WRITES  results/tables/<experiment>, results/figures/<experiment>

All inputs are in git, so a clone without data or adapters rebuilds every file byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config.text_files import replace_text
from lora_ns.errors import LoraNsError
from lora_ns.experiment.study import Study, read_trials
from lora_ns.reporting.tables.table import Table, from_json
from lora_ns.store import record
from lora_ns.store.digests import PROTOCOL
from lora_ns.store.failures import failure_of
from lora_ns.store.integrity import load_verified_score
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store

if TYPE_CHECKING:
    from lora_ns.reporting.results import Results

CODE = ("reporting/**/*.py", "benchmarks/metric_names.py")
"""The code that decides what the tables contain; its digest is stored in their record."""


def tables(experiment: Study, store: Store) -> tuple[Table, ...]:
    """Return the experiment's tables; tables and figures are rebuilt unless they are up to date.

    Raises LoraNsError while the settings are not chosen, DataError if a score file cannot be used.
    """
    if experiment.needs_selection:
        tried = sum(trial.score.is_file() for trial in experiment.trials)
        raise LoraNsError(
            f"the settings of {experiment.name} are not chosen yet: {tried} of {len(experiment.trials)} trials have their "
            "score. `snakemake` runs the others and makes the choice."
        )
    notes = {
        "schema": record.SCHEMA,
        "stage": "tables",
        "protocol": PROTOCOL["tables"],
        "experiment": experiment.to_dict(),
        "experiment_file": experiment.file,
        "general": sorted(experiment.general),
        "code": _code_digest(),
        "missing": missing_runs(experiment, store),
        "inputs": {str(path.relative_to(store.root)): sha256_file(path) for path in _inputs(experiment)},
    }
    target = tables_record_path(experiment, store)
    out = store.tables(experiment.name)
    if not _stands(target, notes, store.root):
        _make(experiment, store, notes, target)
    return from_json((out / "tables.json").read_text(encoding="utf-8"))


def tables_record_path(experiment: Study, store: Store) -> Path:
    """The path of the tables' record. While runs are missing its name differs, so that no workflow takes it for done."""
    lacking = [run["run"] for run in missing_runs(experiment, store)]
    lacking += [run.name for run in experiment.bases if run.name not in lacking and not run.scores[0].is_file()]
    if not lacking:
        return experiment.tables_record
    known = [name for run in experiment.runs for name in run.score_names]
    return store.tables_record(experiment.to_dict(), known, lacking)


def missing_runs(experiment: Study, store: Store) -> list[dict[str, Any]]:
    """Return each run without all its scores, its state (failed or missing), the reason and the missing benchmarks."""
    missing = []
    for run in experiment.runs:
        lacking = [e for e, path in zip(run.evaluations, run.scores, strict=True) if not path.is_file()]
        if not lacking:
            continue
        names = {"run": run.name, "task": run.config.task_name, "method": run.config.method, "seed": run.config.seed}
        names |= {"benchmarks": [e.benchmark for e in lacking if e.name not in experiment.general]}
        failed = failure_of(store, run.name)
        reason = f"{failed['stage']}: {failed['reason'].splitlines()[0][:200]}" if failed else "not evaluated yet"
        missing.append({**names, "state": "failed" if failed else "missing", "reason": reason})
    return missing


def _inputs(experiment: Study) -> list[Path]:
    """Return every file that the tables are made from."""
    scores = _scores(experiment)
    return scores if experiment.choice is None else [*scores, experiment.choice]


def _scores(experiment: Study) -> list[Path]:
    """Return the existing score files: of the compared runs, and of the base models if forgetting is measured."""
    runs = (*experiment.runs, *experiment.bases)
    return [path for path in dict.fromkeys(path for run in runs for path in run.scores) if path.is_file()]


def _make(experiment: Study, store: Store, notes: Mapping[str, Any], target: Path) -> None:
    from lora_ns.reporting.figures import draw_figures
    from lora_ns.reporting.results import collect
    from lora_ns.reporting.rng import SEED
    from lora_ns.reporting.statistics import RESAMPLES
    from lora_ns.reporting.tables.build import write_tables
    from lora_ns.reporting.tables.notes import provenance

    scores = _scores(experiment)
    for score in scores:
        load_verified_score(score)
    trials = read_trials(experiment.choice) if experiment.choice else []
    results = collect(experiment.to_dict(), scores, notes["missing"], root=store.root, general=experiment.general)
    folder = store.tables(experiment.name)
    for old in folder.glob("record-*.json"):
        old.unlink()
    made_by = provenance(results, f"lora-ns tables {shlex.quote(experiment.file)}", target.name)
    made = [
        *write_tables(results, folder, trials, made_by).files,
        *draw_figures(results, store.figures(experiment.name), trials, made_by),
        *_milestone_files(results, experiment.name, store),
    ]
    outputs = {str(path.relative_to(store.root)): sha256_file(path) for path in made}
    # used by every bootstrap and every sign-flip test
    resampling = {"seed": SEED, "resamples": RESAMPLES}
    content = {**notes, "resampling": resampling, "outputs": outputs}
    replace_text(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _milestone_files(results: Results, experiment: str, store: Store) -> list[Path]:
    from lora_ns.reporting.dvc_metrics import metrics_json, points_csv

    contents = {store.metrics(experiment): metrics_json(results), store.points(experiment): points_csv(results)}
    for path, text in contents.items():
        replace_text(path, text)
    return [*contents]


def _stands(target: Path, notes: Mapping[str, Any], root: Path) -> bool:
    """Whether the record states the same inputs, and every output file still has its recorded checksum."""
    try:
        found = json.loads(target.read_text(encoding="utf-8"))
        outputs = found.pop("outputs")
        del found["resampling"]  # fixed in the code, and the code's digest is compared
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    made = all((root / path).is_file() and sha256_file(root / path) == sha for path, sha in outputs.items())
    return made and found == json.loads(json.dumps(notes))


def _code_digest() -> str:
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in package.glob(pattern)):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
