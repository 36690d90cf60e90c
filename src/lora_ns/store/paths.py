"""Where artefacts lie, and what their digests cover.  The only module that knows either.

Every artefact's name ends in a digest of all that determines its content: a changed setting makes a new path, an
unchanged one finds its old result on any machine, whatever the clocks say.  An artefact exists exactly when its
record does; it is made in scratch beside its place and moved there whole.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_ns.config import DatasetConfig, ModelConfig
from lora_ns.config.builtin import base_model_spec
from lora_ns.config.naming import slug
from lora_ns.errors import ConfigError
from lora_ns.store.digests import PROTOCOL, digest_of, rows_identity
from lora_ns.store.local_files import LocalFiles, remembered_sha256


class Store:
    """The paths of all artefacts under one root, each computed from its config."""

    def __init__(self, root: Path = Path()):
        self.root = root
        self.local_files = LocalFiles(root / "results/runs/local_files.json")

    @property
    def remembered(self) -> dict[str, str]:
        """Path -> sha256 of local files (data, base models), also of files that are not on this machine."""
        return self.local_files.checksums

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
        if (files := self.local_files.of_model(model)) is not None:
            return {"files": {path.name: remembered_sha256(path, self.remembered) for path in files}}
        if name.startswith((".", "/", "~")):
            raise ConfigError(f"model.name_or_path: there is no folder {name}.")
        return {"hub": name, "revision": model.revision}

    def run_file(self, run: str) -> Path:
        """results/runs/<run>.yaml"""
        return self.root / "results/runs" / f"{run}.yaml"

    def adapter(self, run: str) -> Path:
        """results/adapters/<run>/"""
        return self.root / "results/adapters" / run

    def evaluation_file(self, evaluation: str) -> Path:
        """results/evaluations/<benchmark>-<digest>.yaml"""
        return self.root / "results/evaluations" / f"{evaluation}.yaml"

    def score(self, run: str, evaluation: str) -> Path:
        """results/scores/<run>/<benchmark>-<digest>.json"""
        return self.root / "results/scores" / run / f"{evaluation}.json"

    def predictions(self, run: str, evaluation: str) -> Path:
        """results/predictions/<run>/<benchmark>-<digest>.jsonl"""
        return self.root / "results/predictions" / run / f"{evaluation}.jsonl"

    def contains(self, folder: Path) -> bool:
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
        """results/scratch/hub/<model>-<digest>.json: present once a hub model is on this machine; None for other models."""
        identity = self.model_identity(model)
        if "hub" not in identity:
            return None
        return self.root / "results/scratch/hub" / f"{slug(model.name_or_path)}-{digest_of(identity)}.json"

    def progress(self, run: str, stage: str = "train") -> Path:
        """results/scratch/<run>/progress.json for training, progress-<evaluation>.json for an evaluation."""
        return self.scratch(run) / ("progress.json" if stage == "train" else f"progress-{stage}.json")

    @property
    def has_step_costs(self) -> bool:
        """Whether this store holds measurements for cost predictions."""
        return (self.root / "results/scratch/predicted").is_dir()

    def step_cost_file(self, digest: str) -> Path:
        """results/scratch/predicted/<digest>.json: the cost of one step of a model and method at one batch shape."""
        return self.root / "results/scratch/predicted" / f"{digest}.json"

    def speed(self, host: str, cores: int) -> Path:
        """results/scratch/predicted/speed-<host>-<cores>.json: the measured speed of a machine."""
        return self.root / "results/scratch/predicted" / f"speed-{slug(host)}-{cores}.json"

    def sandbox_report(self, host: str, digest: str) -> Path:
        """results/scratch/sandbox/<host>-<digest>.json: the result of the sandbox check on one machine."""
        return self.root / "results/scratch/sandbox" / f"{slug(host)}-{digest}.json"
