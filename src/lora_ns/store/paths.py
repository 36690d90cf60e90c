"""Paths of artefacts, and what their digests cover.  No other module defines either.

Every artefact's name ends in a digest of all that determines its content.  A changed setting gives a new path.  An
unchanged one finds its old result on any machine, without comparing file times.  An artefact exists if and only if its
record does.  It is made in a scratch folder beside its place, then moved there whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_ns.benchmarks import benchmark
from lora_ns.config import DatasetConfig, ModelConfig, write_yaml
from lora_ns.config.builtin import base_model_spec
from lora_ns.config.naming import slug
from lora_ns.config.text_files import replace_text
from lora_ns.errors import ConfigError, DamagedError
from lora_ns.store.digests import PROTOCOL, digest_of, reading_settings, rows_identity
from lora_ns.store.evaluation_file import EvaluationRequest, read_evaluation
from lora_ns.store.local_files import files_by_split, files_in, sha256


class Store:
    """The paths of all artefacts under one root, each computed from its config."""

    def __init__(self, root: Path = Path()):
        self.root = root
        self._ledger = root / "results/runs/local_files.json"
        self._remembered: dict[str, str] | None = None

    # -- inputs --------------------------------------------------------------------------------------------------

    @property
    def remembered(self) -> dict[str, str]:
        """Path -> sha256 of local files (data, base models) as last seen, so that a clone without them has the digests."""
        if self._remembered is None:
            self._remembered = _ledger_at(self._ledger) if self._ledger.is_file() else {}
        return self._remembered

    def remember(self, dataset: DatasetConfig) -> None:
        """Save the checksums of the data set's local files."""
        if dataset.is_builtin or dataset.is_hub:
            return
        files = files_by_split(dataset, self.remembered)
        self._note([path for parts in files.values() for _, path in parts])

    def remember_model(self, model: ModelConfig) -> None:
        """Save the checksums of a base model in a local folder."""
        self._note(self._model_files(model) or [])

    def _note(self, files: Sequence[Path]) -> None:
        seen = {str(path): sha256(path, self.remembered) for path in files}
        if not seen.items() <= self.remembered.items():
            self._remembered = None  # another process may have written meanwhile
            self._remembered = dict(sorted({**self.remembered, **seen}.items()))
            self._ledger.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._ledger, json.dumps(self._remembered, indent=1) + "\n")

    def rows(self, dataset: DatasetConfig) -> Path:
        """data/raw/<dataset>-<digest>/"""
        files = [dataset.name] if isinstance(dataset.name, str) else dataset.name
        name = files[0] if isinstance(files, list) else next(iter(files.values()))[0]
        stem = slug(Path(name).parent.name + "-" + Path(name).name.split(".")[0] if "." in Path(name).name else name)
        return self.root / "data/raw" / f"{stem}-{self.rows_digest(dataset)}"

    def rows_digest(self, dataset: DatasetConfig) -> str:
        """The digest of source, splits and limits; local files count with their bytes."""
        return digest_of({"stage": "fetch", "protocol": PROTOCOL["fetch"], **rows_identity(dataset, self.remembered)})

    def base_model(self, name: str) -> Path:
        """data/models/<name>-<digest>/ of a builtin base model."""
        return self.root / "data/models" / f"{slug(name)}-{self.base_digest(name)}"

    def base_digest(self, name: str) -> str:
        """The digest of a builtin base model's specification."""
        return digest_of({"stage": "pretrain", "protocol": PROTOCOL["pretrain"], "spec": base_model_spec(name)})

    def model_identity(self, model: ModelConfig) -> dict[str, Any]:
        """The values that determine a base model's weights and tokenizer.  Raises ConfigError for a missing folder."""
        name = model.name_or_path
        if name.startswith("builtin:"):
            return {"builtin": self.base_model(name).name}
        if (files := self._model_files(model)) is not None:
            return {"files": {path.name: sha256(path, self.remembered) for path in files}}
        if name.startswith((".", "/", "~")):
            raise ConfigError(f"model.name_or_path: there is no folder {name}.")
        return {"hub": name, "revision": model.revision}

    def _model_files(self, model: ModelConfig) -> list[Path] | None:
        """The files of a base model in a local folder.  None for a builtin or hub model."""
        if model.name_or_path.startswith("builtin:"):
            return None
        listed = files_in(Path(model.name_or_path).expanduser(), self.remembered)
        return listed and [path for path in listed if not path.is_dir() and path.suffix != ".md"]

    # -- outputs -------------------------------------------------------------------------------------------------

    def run_file(self, run: str) -> Path:
        """results/runs/<run>.yaml"""
        return self.root / "results/runs" / f"{run}.yaml"

    def adapter(self, run: str) -> Path:
        """results/adapters/<run>/"""
        return self.root / "results/adapters" / run

    def evaluation_digest(self, request: EvaluationRequest) -> str:
        """The digest of prompts, decoding and scoring.  Batch size is not covered."""
        spec, view = benchmark(request.benchmark), reading_settings(request.dataset)
        # the completion template affects few-shot examples and perplexity only
        shown = request.num_fewshot or spec.kind == "perplexity"
        payload = {
            "stage": "evaluate",
            "protocol": PROTOCOL["evaluate"],
            "benchmark": [request.benchmark, spec.protocol],
            "rows": self.rows_digest(request.dataset),
            "split": request.split,
            "view": {key: value for key, value in view.items() if shown or key != "response_template"},
            "generation": request.generation.model_dump() if spec.kind == "generation" else None,
            "fewshot": [request.num_fewshot, request.fewshot_seed] if request.num_fewshot else None,
            "limit": request.limit,
            "settings": request.settings,
            "unsafe": request.sandbox == "unsafe",
        }
        if request.backend == "vllm" and spec.kind == "generation" and request.generation.do_sample:
            payload["drawn_by"] = "vllm"  # vLLM has its own random numbers
        return digest_of(payload)

    def evaluation_file(self, evaluation: str) -> Path:
        """results/evaluations/<benchmark>-<digest>.yaml"""
        return self.root / "results/evaluations" / f"{evaluation}.yaml"

    def read_evaluation(self, path: Path) -> EvaluationRequest:
        """Return the request in an evaluation file.  Raises ConfigError if its digest differs from the file's name."""
        evaluation = read_evaluation(path)
        digest = self.evaluation_digest(evaluation)
        if not path.stem.endswith(f"-{digest}"):
            raise ConfigError(
                f"{path}: was changed after it was written, or written by another version: its content has the digest "
                f"{digest}, and a score is named by it. Bring the file back (`git checkout`), or change the config's "
                "`evaluation:`, which writes another."
            )
        return replace(evaluation, digest=digest)

    def score(self, run: str, evaluation: str) -> Path:
        """results/scores/<run>/<benchmark>-<digest>.json"""
        return self.root / "results/scores" / run / f"{evaluation}.json"

    def predictions(self, run: str, evaluation: str) -> Path:
        """results/predictions/<run>/<benchmark>-<digest>.jsonl"""
        return self.root / "results/predictions" / run / f"{evaluation}.jsonl"

    def keeps(self, folder: Path) -> bool:
        """Whether a folder is one of this store's adapters or merged models, by its path."""
        places = ("results/adapters", "results/merged")
        return folder.resolve().parent in [(self.root / place).resolve() for place in places]

    def tables(self, experiment: str) -> Path:
        """results/tables/<experiment>/"""
        return self.root / "results/tables" / slug(experiment)

    def tables_record(self, experiment: Mapping[str, Any], scores: Sequence[str], lacking: Sequence[str] = ()) -> Path:
        """results/tables/<experiment>/record-<digest>.json; the digest covers the experiment's description and its scores.

        lacking: the runs without a score, for tables of an unfinished experiment.
        """
        payload = {
            "stage": "tables",
            "protocol": PROTOCOL["tables"],
            "experiment": dict(experiment),
            "scores": list(scores),
            "lacking": list(lacking),
        }
        return self.tables(experiment["name"]) / f"record-{digest_of(payload)}.json"

    def choice(self, experiment: str, trials: Sequence[Any]) -> Path:
        """results/tuning/<experiment>-<digest>.json; the digest covers every trial.

        trials: task, method, setting and score files of each.
        """
        payload = {"stage": "choose", "protocol": PROTOCOL["choose"], "trials": list(trials)}
        return self.root / "results/tuning" / f"{slug(experiment)}-{digest_of(payload)}.json"

    def failure(self, run: str) -> Path:
        """results/failures/<run>.json: why a run's last attempt failed.  Deleted once the run succeeds."""
        return self.root / "results/failures" / f"{run}.json"

    def figures(self, experiment: str) -> Path:
        """results/figures/<experiment>/"""
        return self.root / "results/figures" / slug(experiment)

    def report(self, experiment: str) -> Path:
        """results/report/<experiment>/"""
        return self.root / "results/report" / slug(experiment)

    def metrics(self, experiment: str) -> Path:
        """results/metrics/<experiment>.json, for `dvc metrics`."""
        return self.root / "results/metrics" / f"{slug(experiment)}.json"

    def points(self, experiment: str) -> Path:
        """results/plots/<experiment>.csv, for `dvc plots`."""
        return self.root / "results/plots" / f"{slug(experiment)}.csv"

    def scratch(self, run: str) -> Path:
        """results/scratch/<run>/: checkpoints, which are no output of any workflow rule."""
        return self.root / "results/scratch" / run

    def job_marker(self, job: str) -> Path:
        """results/scratch/together/<job>: marks that runs sharing a process are done.  Deleted once it has been seen."""
        return self.root / "results/scratch/together" / job

    def download(self, model: ModelConfig) -> Path | None:
        """results/scratch/hub/<model>-<digest>.json: notes that a hub model's files are on this machine.

        None for any other model.
        """
        rows_identity = self.model_identity(model)
        if "hub" not in rows_identity:
            return None
        return self.root / "results/scratch/hub" / f"{slug(model.name_or_path)}-{digest_of(rows_identity)}.json"

    def progress(self, run: str, stage: str = "train") -> Path:
        """results/scratch/<run>/progress.json for training, progress-<evaluation>.json for an evaluation."""
        return self.scratch(run) / ("progress.json" if stage == "train" else f"progress-{stage}.json")

    @property
    def has_predictions(self) -> bool:
        """Whether this store holds measurements for cost predictions."""
        return (self.root / "results/scratch/predicted").is_dir()

    def predicted(self, digest: str) -> Path:
        """results/scratch/predicted/<digest>.json: the cost of one step of a model and method at one batch shape."""
        return self.root / "results/scratch/predicted" / f"{digest}.json"

    def speed(self, host: str, cores: int) -> Path:
        """results/scratch/predicted/speed-<host>-<cores>.json: the measured speed of a machine."""
        return self.root / "results/scratch/predicted" / f"speed-{slug(host)}-{cores}.json"

    def logs(self, run: str) -> list[Path]:
        """The existing workflow logs of a run's training, evaluations and merge.  Includes logs of jobs shared with other
        runs, which name their runs at the top."""
        root = self.root / "logs"
        own = [root / "train" / f"{run}.log", *(root / "evaluate" / run).glob("*.log")]
        own += (root / "merge").glob(f"{run}-*.log")
        shared = {*(root / "train").glob("*.log"), *(root / "evaluate").glob("*/*.log")} - {*own}
        return [path for path in own if path.is_file()] + [path for path in shared if _mentions(path, run)]

    def sandbox_report(self, host: str, digest: str) -> Path:
        """results/scratch/sandbox/<host>-<digest>.json: the result of the sandbox check on one machine."""
        return self.root / "results/scratch/sandbox" / f"{slug(host)}-{digest}.json"

    # -- requests ------------------------------------------------------------------------------------------------

    def write_evaluation_file(self, evaluation: EvaluationRequest) -> Path:
        """Write the evaluation file if it is missing or differs.  Returns its path."""
        self.remember(evaluation.dataset)
        path = self.evaluation_file(evaluation.name)
        replace_text(path, write_yaml(evaluation.to_dict()))
        return path


def _mentions(log: Path, run: str) -> bool:
    with log.open(encoding="utf-8", errors="replace") as file:
        return run in file.read(1 << 16)


def _ledger_at(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DamagedError(f"{path} is damaged: bring it back (`git checkout {path}`), or remove it where nothing is kept.")
    return found
