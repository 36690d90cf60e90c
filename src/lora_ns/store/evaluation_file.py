"""Evaluation requests, and the files that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lora_ns.config import DatasetConfig, GenerationConfig, read_mapping
from lora_ns.config.kinds import refuse_other_kinds
from lora_ns.config.messages import lines_of
from lora_ns.errors import ConfigError


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
