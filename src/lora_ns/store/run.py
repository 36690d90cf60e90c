"""A run: one resolved config, with the names, digests and paths of its artefacts.  Every stage takes a `Run`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_ns.benchmarks import benchmark, check_request
from lora_ns.config import (
    OUTSIDE_DIGEST,
    BenchmarkEntry,
    DatasetConfig,
    GenerationConfig,
    RunConfig,
    format_problems,
    merge,
    nearest,
    settled,
    write_yaml,
)
from lora_ns.config.naming import slug
from lora_ns.config.text_files import replace_text
from lora_ns.errors import ConfigError
from lora_ns.store.artifact import is_finished
from lora_ns.store.digests import PROTOCOL, digest_of, reading_settings
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.paths import Store


@dataclass(frozen=True)
class Run:
    """A resolved config in a store.  Names are computed at first use, and may raise ConfigError."""

    config: RunConfig
    store: Store

    # -- tokens ----------------------------------------------------------------------------------------------------------

    @cached_property
    def tokens_digest(self) -> str:
        config = self.config
        return digest_of(
            {
                "stage": "tokenize",
                "protocol": PROTOCOL["tokenize"],
                "rows": self.store.rows_digest(config.dataset),
                "tokenizer": self.model_identity,
                "task_type": config.task_type,
                "view": reading_settings(config.dataset) | config.dataset.model_dump(include={"max_dropped", "overlap"}),
                **self._held_out_identity(),
            }
        )

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
        """Requests of the benchmarks with data sets of their own that are checked for contamination (`dataset.held_out`)."""
        named = [
            BenchmarkEntry(name=one.benchmark, dataset=one.dataset, settings=one.settings)
            for one in self.config.dataset.held_out or []
        ]
        if not named:
            return []
        own = self.store.rows_digest(self.config.dataset)
        asked = map(self.evaluation, named)
        return [evaluation for evaluation in asked if self.store.rows_digest(evaluation.dataset) != own]

    @property
    def training_data(self) -> list[DatasetConfig]:
        """The data sets that determine the training rows: the config's, then the held-out ones."""
        return [self.config.dataset, *(evaluation.dataset for evaluation in self.held_out)]

    @property
    def tokens_inputs(self) -> list[Path]:
        """The records of the rows and the base model that the tokens are made from."""
        folders = dict.fromkeys(self.store.rows(dataset) for dataset in self.training_data)
        return [*(folder / "record.json" for folder in folders), *self.base_records]

    def _held_out_identity(self) -> dict[str, Any]:
        if self.config.dataset.overlap == "report":
            return {}
        found = set()
        for evaluation in self.held_out:
            identity = {
                "benchmark": [evaluation.benchmark, benchmark(evaluation.benchmark).protocol],
                "rows": self.store.rows_digest(evaluation.dataset),
                "view": reading_settings(evaluation.dataset),
            }
            found.add(json.dumps(identity, sort_keys=True))
        return {"held_out": sorted(found)}

    # -- base model ------------------------------------------------------------------------------------------------------

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

    # -- adapter ---------------------------------------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """The digest of all that determines the adapter."""
        config = self.config
        training = {key: value for key, value in config.training.model_dump().items() if key not in OUTSIDE_DIGEST}
        return digest_of(
            {
                "stage": "train",
                "protocol": PROTOCOL["train"],
                "tokens": self.tokens_digest,
                "model": {**self.model_identity, **config.model.model_dump(exclude={"name_or_path", "revision"})},
                "peft": config.peft.model_dump(),
                "training": None if config.peft.method == "none" else training,
                "seed": config.seed,
            }
        )

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
        """Whether the adapter exists."""
        return is_finished(self.adapter)

    @property
    def scratch(self) -> Path:
        """results/scratch/<run>/"""
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
            self.store.remember(dataset)
        self.store.remember_model(self.config.model)
        replace_text(self.file, write_yaml(self.config.model_dump(exclude={"evaluation", "merge"})))
        return self.file

    # -- scores ----------------------------------------------------------------------------------------------------------

    @cached_property
    def evaluations(self) -> list[EvaluationRequest]:
        """The evaluation requests of the config's benchmarks."""
        return [self.evaluation(entry) for entry in self.config.evaluation.benchmarks]

    def evaluation(self, entry: BenchmarkEntry) -> EvaluationRequest:
        """Return the complete evaluation request of a config entry, named by its digest.

        Raises ConfigError if the benchmark does not allow these settings.
        """
        config, spec = self.config, benchmark(entry.name)
        dataset = _dataset_of(config, entry)
        instructed = spec.instruction is not None and (dataset.is_chat or dataset.format == "alpaca")
        own = dict(spec.generation) | ({"stop": list(spec.instruction_stop)} if instructed else {})
        decoding = merge(merge(own, config.evaluation.generation), entry.generation)
        generation = GenerationConfig.model_validate(decoding)
        num_fewshot = entry.num_fewshot
        if num_fewshot is None:
            num_fewshot = 0 if instructed else spec.num_fewshot
        check_request(spec, config.task_type, entry.settings, generation.model_dump(), num_fewshot)
        if spec.prompt is None and config.task_type == "causal_lm":
            answered = num_fewshot > 0 or spec.kind == "perplexity"
            faults = format_problems(dataset, answered=answered)
            if faults:
                raise ConfigError([f"evaluation.benchmarks: {entry.name}: {fault}" for fault in faults])
        request = EvaluationRequest(
            name="",
            benchmark=entry.name,
            dataset=dataset,
            split=config.evaluation.split,
            generation=generation,
            num_fewshot=num_fewshot,
            fewshot_seed=entry.fewshot_seed,
            limit=entry.limit,
            settings=dict(entry.settings),
            sandbox=config.evaluation.sandbox,
            batch_size=config.evaluation.batch_size,
            backend=config.evaluation.backend,
        )
        digest = self.store.evaluation_digest(request)
        return replace(request, name=f"{slug(entry.name)}-{digest}", digest=digest)

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

    def asked(self, entries: Sequence[BenchmarkEntry], **changes: Any) -> Run:
        """Return the run with other benchmarks.  changes: other fields of the `evaluation` section."""
        asked = self.config.evaluation.model_copy(update={"benchmarks": list(entries), **changes})
        return Run(self.config.model_copy(update={"evaluation": asked}), self.store)


def _dataset_of(config: RunConfig, entry: BenchmarkEntry) -> DatasetConfig:
    """Return the benchmark's dataset config: the task's, overridden by the entry."""
    stated = entry.dataset
    if stated is None:
        return config.dataset.model_copy(update={"held_out": None})
    shared = reading_settings(config.dataset) if "name" in stated else config.dataset.model_dump()
    name = stated.get("name")
    if isinstance(name, str) and not (name.startswith("builtin:") or Path(name).expanduser().is_dir()):
        is_file = not DatasetConfig.model_validate({"name": name}).is_hub
        stated = {**stated, "name": {"test": [name]}} if is_file else stated
    elif isinstance(name, list):
        stated = {**stated, "name": {"test": name}}
    return settled(DatasetConfig.model_validate({**shared, **stated, "held_out": None}))


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
