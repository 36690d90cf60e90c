"""Evaluation requests, and the files that hold them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lora_ns.benchmarks import benchmark, check_request
from lora_ns.config import (
    BenchmarkEntry,
    DatasetConfig,
    GenerationConfig,
    RunConfig,
    format_problems,
    merge,
    read_mapping,
    settled,
    write_yaml,
)
from lora_ns.config.kinds import refuse_other_kinds
from lora_ns.config.messages import lines_of
from lora_ns.config.naming import slug
from lora_ns.config.text_files import replace_text
from lora_ns.errors import ConfigError
from lora_ns.store.digests import PROTOCOL, digest_of, reading_settings
from lora_ns.store.paths import Store


@dataclass(frozen=True)
class EvaluationRequest:
    """A complete evaluation request: one benchmark with all settings.  The content of an evaluation file."""

    name: str
    """`<benchmark>-<digest>`."""
    benchmark: str
    dataset: DatasetConfig
    split: str
    generation: GenerationConfig
    num_fewshot: int
    fewshot_seed: int
    limit: int | None
    settings: dict[str, Any]
    sandbox: str
    batch_size: int | None
    backend: str = "auto"
    digest: str = field(default="", compare=False)
    """The digest in `name`.  Empty if the file was read without a check."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the file and the record."""
        return {
            "benchmark": self.benchmark,
            "split": self.split,
            "dataset": self.dataset.model_dump(),
            "generation": self.generation.model_dump(),
            "num_fewshot": self.num_fewshot,
            "fewshot_seed": self.fewshot_seed,
            "limit": self.limit,
            "settings": self.settings,
            "sandbox": self.sandbox,
            "batch_size": self.batch_size,
            "backend": self.backend,
        }


def read_evaluation(path: Path) -> EvaluationRequest:
    """Return the request in an evaluation file, without checking its digest.  Raises ConfigError for any other file."""
    content = read_mapping(path)
    refuse_other_kinds(content, "evaluation file", path)
    wanted = {known.name for known in fields(EvaluationRequest)} - {"name", "digest"}
    if set(content) != wanted:
        differ = ", ".join(sorted(set(content) ^ wanted))
        raise ConfigError(f"{path}: is no evaluation file as `lora-ns evaluate` writes them: {differ} differ.")
    models: dict[str, type[BaseModel]] = {"dataset": DatasetConfig, "generation": GenerationConfig}
    for key, model in models.items():
        try:
            content[key] = model.model_validate(content[key])
        except ValidationError as error:
            raise ConfigError([f"{path}: {key}: {line}" for line in lines_of(error, model)]) from None
    return EvaluationRequest(name=path.stem, **content)


def evaluation_digest(request: EvaluationRequest, store: Store) -> str:
    """The digest of prompts, decoding and scoring.  Batch size is not covered."""
    spec, view = benchmark(request.benchmark), reading_settings(request.dataset)
    # what an answer looks like matters to examples and to perplexity only
    shown = request.num_fewshot or spec.kind == "perplexity"
    payload = {
        "stage": "evaluate",
        "protocol": PROTOCOL["evaluate"],
        "benchmark": [request.benchmark, spec.protocol],
        "rows": store.rows_digest(request.dataset),
        "split": request.split,
        "view": {key: value for key, value in view.items() if shown or key != "response_template"},
        "generation": request.generation.model_dump() if spec.kind == "generation" else None,
        "fewshot": [request.num_fewshot, request.fewshot_seed] if request.num_fewshot else None,
        "limit": request.limit,
        "settings": request.settings,
        "unsafe": request.sandbox == "unsafe",
    }
    if request.backend == "vllm" and spec.kind == "generation" and request.generation.do_sample:
        payload["drawn_by"] = "vllm"  # by random numbers of its own
    return digest_of(payload)


def read_checked_evaluation(path: Path, store: Store) -> EvaluationRequest:
    """An evaluation file whose content is what its name says.  Raises ConfigError where it was changed."""
    evaluation = read_evaluation(path)
    digest = evaluation_digest(evaluation, store)
    if not path.stem.endswith(f"-{digest}"):
        raise ConfigError(
            f"{path}: was changed after it was written, or written by another version: its content has the digest "
            f"{digest}, and a score is named by it. Bring the file back (`git checkout`), or change the config's "
            "`evaluation:`, which writes another."
        )
    return replace(evaluation, digest=digest)


def write_evaluation_file(evaluation: EvaluationRequest, store: Store) -> Path:
    """The evaluation file, written if it is missing or has other content."""
    store.local_files.remember(evaluation.dataset)
    path = store.evaluation_file(evaluation.name)
    replace_text(path, write_yaml(evaluation.to_dict()))
    return path


def resolve_evaluation(config: RunConfig, entry: BenchmarkEntry, store: Store) -> EvaluationRequest:
    """A benchmark entry of a config with every setting filled in, named by its digest.

    Settings of the entry win over those of `evaluation`, which win over the benchmark's own.
    Raises ConfigError if the benchmark cannot be run with these settings.
    """
    spec = benchmark(entry.name)
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
    digest = evaluation_digest(request, store)
    return replace(request, name=f"{slug(entry.name)}-{digest}", digest=digest)


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


def held_out_requests(config: RunConfig, store: Store) -> list[EvaluationRequest]:
    """The benchmarks with rows of their own that `dataset.held_out` names."""
    named = [
        BenchmarkEntry(name=one.benchmark, dataset=one.dataset, settings=one.settings) for one in config.dataset.held_out or []
    ]
    if not named:
        return []
    own = store.rows_digest(config.dataset)
    requests = [resolve_evaluation(config, entry, store) for entry in named]
    return [request for request in requests if store.rows_digest(request.dataset) != own]


def held_out_identity(requests: Sequence[EvaluationRequest], store: Store) -> dict[str, Any]:
    """What of the held-out benchmarks determines the tokens: their version, rows, and how the rows are read."""
    found = set()
    for request in requests:
        identity = {
            "benchmark": [request.benchmark, benchmark(request.benchmark).protocol],
            "rows": store.rows_digest(request.dataset),
            "view": reading_settings(request.dataset),
        }
        found.add(json.dumps(identity, sort_keys=True))
    return {"held_out": sorted(found)}
