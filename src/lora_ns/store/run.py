"""One configuration, resolved once: the names, digests and paths of all that is made of it.  Stages take a `Run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_ns.config import BenchmarkEntry, DatasetConfig, RunConfig, write_yaml
from lora_ns.config.naming import slug
from lora_ns.config.text_files import replace_text
from lora_ns.config.yaml_io import nearest
from lora_ns.errors import ConfigError
from lora_ns.store.artifact import is_finished
from lora_ns.store.digests import PROTOCOL, adapter_identity, digest_of, tokens_identity
from lora_ns.store.evaluation_file import EvaluationRequest, held_out_identity, held_out_requests, resolve_evaluation
from lora_ns.store.paths import Store


@dataclass(frozen=True)
class Run:
    """A resolved config in a store.  Names are computed at first use, and may raise ConfigError."""

    config: RunConfig
    store: Store

    @cached_property
    def tokens_digest(self) -> str:
        held_out = {} if self.config.dataset.overlap == "report" else held_out_identity(self.held_out, self.store)
        rows = self.store.rows_digest(self.config.dataset)
        return digest_of(tokens_identity(self.config, rows, self.model_identity, held_out))

    @cached_property
    def tokens(self) -> Path:
        """data/tokens/<task>-<model>-<digest>/"""
        stem = f"{slug(self.config.task_name)}-{slug(self.config.model.name_or_path)}"
        return self.store.root / "data/tokens" / f"{stem}-{self.tokens_digest}"

    @cached_property
    def rows(self) -> Path:
        """data/raw/<dataset>-<digest>/ of the run's training data set."""
        return self.store.rows(self.config.dataset)

    @cached_property
    def held_out(self) -> list[EvaluationRequest]:
        return held_out_requests(self.config, self.store)

    @property
    def training_data(self) -> list[DatasetConfig]:
        """The data sets that determine the training rows: the config's, then the held-out ones."""
        return [self.config.dataset, *(evaluation.dataset for evaluation in self.held_out)]

    @property
    def tokens_inputs(self) -> list[Path]:
        """The records of the rows and the base model that the tokens are made from."""
        folders = dict.fromkeys(self.store.rows(dataset) for dataset in self.training_data)
        return [*(folder / "record.json" for folder in folders), *self.base_records]

    @cached_property
    def model_identity(self) -> dict[str, Any]:
        """The values that determine the base model's weights and tokenizer."""
        return self.store.model_identity(self.config.model)

    @cached_property
    def base_folder(self) -> Path | None:
        """The folder of a builtin base model.  None for any other base model."""
        name = self.config.model.name_or_path
        return self.store.base_model(name) if name.startswith("builtin:") else None

    @cached_property
    def download(self) -> Path | None:
        """The path of the download note of a hub model, which may not exist yet.  None for any other base model."""
        return self.store.download(self.config.model)

    @property
    def base_records(self) -> list[Path]:
        """The record or download note of the base model.  Empty for a model in a local folder."""
        found = self.base_folder / "record.json" if self.base_folder is not None else self.download
        return [] if found is None else [found]

    @cached_property
    def digest(self) -> str:
        """The digest of all that determines the adapter."""
        return digest_of(adapter_identity(self.config, self.tokens_digest, self.model_identity))

    @cached_property
    def name(self) -> str:
        """<task>-<model>-<method>-s<seed>-<digest>"""
        config = self.config
        parts = [slug(config.task_name), slug(config.model.name_or_path), slug(config.method), f"s{config.seed}"]
        return "-".join([*parts, self.digest])

    @property
    def file(self) -> Path:
        """results/runs/<run>.yaml"""
        return self.store.run_file(self.name)

    @property
    def adapter(self) -> Path:
        """results/adapters/<run>/"""
        return self.store.adapter(self.name)

    @property
    def adapter_inputs(self) -> list[Path]:
        """The records of tokens and base model that an adapter is made from."""
        tokens = [] if self.config.peft.method == "none" else [self.tokens / "record.json"]
        return [*tokens, *self.base_records]

    @property
    def is_trained(self) -> bool:
        return is_finished(self.adapter)

    @property
    def scratch(self) -> Path:
        return self.store.scratch(self.name)

    @cached_property
    def merged_digest(self) -> str:
        return digest_of({"stage": "merge", "protocol": PROTOCOL["merge"], **self.config.merge.model_dump()})

    @cached_property
    def merged(self) -> Path:
        """results/merged/<run>-<digest>/"""
        return self.store.root / "results/merged" / f"{self.name}-{self.merged_digest}"

    def write_file(self) -> Path:
        """Write the run file if it is missing or differs.  Returns its path."""
        for dataset in self.training_data:
            self.store.local_files.remember(dataset)
        self.store.local_files.remember_model(self.config.model)
        replace_text(self.file, write_yaml(self.config.model_dump(exclude={"evaluation", "merge"})))
        return self.file

    @cached_property
    def evaluations(self) -> list[EvaluationRequest]:
        """The evaluation requests of the config's benchmarks."""
        return [self.evaluation(entry) for entry in self.config.evaluation.benchmarks]

    def evaluation(self, entry: BenchmarkEntry) -> EvaluationRequest:
        """A benchmark entry as a complete request.  Raises ConfigError if it cannot be run with these settings."""
        return resolve_evaluation(self.config, entry, self.store)

    @property
    def score_names(self) -> list[str]:
        """The names <run>/<evaluation> of its scores."""
        return [f"{self.name}/{evaluation.name}" for evaluation in self.evaluations]

    @property
    def scores(self) -> list[Path]:
        """Its score files, which may not exist yet."""
        return [self.score(evaluation) for evaluation in self.evaluations]

    def score(self, evaluation: EvaluationRequest) -> Path:
        """results/scores/<run>/<benchmark>-<digest>.json"""
        return self.store.score(self.name, evaluation.name)

    def predictions(self, evaluation: EvaluationRequest) -> Path:
        """results/predictions/<run>/<benchmark>-<digest>.jsonl"""
        return self.store.predictions(self.name, evaluation.name)

    def with_benchmarks(self, entries: Sequence[BenchmarkEntry], **changes: Any) -> Run:
        """Return the run with other benchmarks.  changes: other fields of the `evaluation` section."""
        asked = self.config.evaluation.model_copy(update={"benchmarks": list(entries), **changes})
        return Run(self.config.model_copy(update={"evaluation": asked}), self.store)


def find_run(word: str, store: Store) -> str:
    """Return a run's name, given the name, a unique prefix, or the path of one of its files.  Raises ConfigError."""
    known = sorted(path.stem for path in store.run_file("any").parent.glob("*.yaml"))
    parts = Path(word).parts
    named = [run for run in known if run in {word, *parts, Path(word).stem}]
    found = named or [run for run in known if word and run.startswith(word)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{word!r} begins the names of {len(found)} runs: {', '.join(found[:5])}.")
    raise ConfigError(f"there is no run {word!r} in {store.run_file('any').parent}.{nearest(word, known)}")
