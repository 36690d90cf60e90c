"""One benchmark as it is to be asked, complete, and the file that holds it."""

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
    """One benchmark as it is to be asked, complete; the content of an evaluation file."""

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
    """Of the name; empty where the file was read without being checked."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for the file and the record."""
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
    """An evaluation file as it was written.  Raises ConfigError where it is none."""
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
