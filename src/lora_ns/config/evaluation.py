"""The `evaluation` section: benchmarks and decoding settings for the trained model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from lora_ns.config.base import Section
from lora_ns.config.dataset import StatedDataset
from lora_ns.config.messages import some_of


class GenerationConfig(Section):
    """Every decoding setting, stated: a model's own generation_config.json is never asked."""

    max_new_tokens: int = Field(default=256, gt=0)
    """Longest answer."""
    do_sample: bool = False
    """Draw tokens by their probability; otherwise the likeliest each time."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling: below 1 more certain, above 1 more varied."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Of sampling: only the likeliest tokens that together have this probability."""
    top_k: int = Field(default=0, ge=0)
    """0: all tokens."""
    num_beams: int = Field(default=1, ge=1)
    """Beam search over so many; 1: none."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Above 1: tokens that were said already become less likely."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Texts that end an answer, besides the end-of-sequence token."""
    num_samples: int = Field(default=1, ge=1)
    """Answers a question, for pass@k; needs do_sample."""
    seed: int = 0
    """Of sampling; unused by greedy decoding."""

    @model_validator(mode="after")
    def _samples_differ(self) -> GenerationConfig:
        if self.num_samples > 1 and not self.do_sample:
            raise ValueError("num_samples above 1 needs do_sample: true (greedy decoding gives the same text each time)")
        return self


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    """Return the stated subset of GenerationConfig's fields, after checking it.  Raises ValueError."""
    return some_of(GenerationConfig, given, "decoding setting")


Generation = Annotated[dict[str, Any], AfterValidator(_stated)]


class BenchmarkEntry(Section):
    """One benchmark, where it is more than its name."""

    name: str
    """Of the benchmark."""
    dataset: StatedDataset | None = None
    """Other rows than the task's own: what is stated here is laid over the task's `dataset`; with a `name` of its own only
    the templates and columns are taken over from there.  A single file is a test set."""
    generation: Generation = {}
    """Decoding settings for this benchmark alone."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples before the question, drawn from the train split (None: as many as the benchmark has by itself)."""
    fewshot_seed: int = 0
    """Of the choice of examples."""
    limit: int | None = Field(default=None, gt=0)
    """At most so many of the benchmark's rows: a seeded sample, for a quick look."""
    settings: dict[str, Any] = {}
    """Whatever the benchmark itself reads."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class EvaluationConfig(Section):
    """What is asked of the model once it is trained."""

    benchmarks: list[Annotated[BenchmarkEntry, BeforeValidator(_named)]] = []
    """By name, or with settings of their own."""
    split: Literal["test", "validation"] = "test"
    """The rows that are asked; `validation` while settings are chosen by hand."""
    generation: Generation = {}
    """Fields of GenerationConfig; over the benchmark's own, under a benchmark entry's."""
    batch_size: int | None = Field(default=None, gt=0)
    """Examples at a time (None: as many as pay and fit).  Outside every digest."""
    backend: Literal["auto", "continuous", "generate", "vllm"] = "auto"
    """What generates text: `continuous` gives a slot to the next example as soon as its answer has ended, `generate` is
    transformers' own, `vllm` needs vLLM and a GPU.  auto: continuous where it provably computes the same, else generate.
    Outside every digest."""
    sandbox: Literal["auto", "bubblewrap", "landlock", "unsafe"] = "auto"
    """What isolates generated code; `unsafe` runs it without, and is stamped on every score."""

    @field_validator("benchmarks")
    @classmethod
    def _once_each(cls, entries: list[BenchmarkEntry]) -> list[BenchmarkEntry]:
        names = [entry.model_dump_json() for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError("the same benchmark is named twice")
        return entries
