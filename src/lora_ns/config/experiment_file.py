"""Schema of an experiment file.  Checking it does not read the files it names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationError

from lora_ns.config import read_mapping
from lora_ns.config.base import Section
from lora_ns.config.evaluation import BenchmarkEntry, StatedDataset
from lora_ns.config.kinds import refuse_other_kinds
from lora_ns.config.messages import lines_of
from lora_ns.errors import ConfigError

SEARCHABLE = ("training.", "peft.")
"""Prefixes of the settings that `tune` may search: training and method, never data or evaluation."""


def _dotted(grid: Any, prefix: str = "") -> Any:
    """Return nested sections as one mapping with dotted keys."""
    if not isinstance(grid, Mapping):
        return grid
    flat: dict[str, Any] = {}
    for key, values in grid.items():
        inside = isinstance(values, Mapping)
        flat |= _dotted(values, f"{prefix}{key}.") if inside else {f"{prefix}{key}": values}
    return flat


def _checked(grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for key, values in grid.items():
        if not key.startswith(SEARCHABLE):
            raise ValueError(f"{key}: only settings of `training` and `peft` can be searched, as training.learning_rate")
        if not values:
            raise ValueError(f"{key}: names no value")
        if len({repr(value) for value in values}) < len(values):
            raise ValueError(f"{key}: names a value twice")
    if not grid:
        raise ValueError("names nothing to search; leave it out where nothing is searched")
    return grid


Grid = Annotated[dict[str, list[Any]], BeforeValidator(_dotted), AfterValidator(_checked)]

Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _once_each(seeds: list[int]) -> list[int]:
    repeated = [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} is named twice, and the same seed gives the same run")
    return seeds


Seeds = Annotated[list[Seed], AfterValidator(_once_each)]


def _no_seed(overrides: dict[str, Any]) -> dict[str, Any]:
    if "seed" in overrides:
        raise ValueError("seed: every run is made with each of the experiment's `seeds`; name them there")
    return overrides


Overrides = Annotated[dict[str, Any], AfterValidator(_no_seed)]


class Entry(Section):
    """A task or method of an experiment: a file, and what is set otherwise here."""

    config: str
    """The file."""
    name: str | None = None
    """Another name in paths and tables than the file's."""
    overrides: Overrides = {}
    """Settings over the file's, for this entry."""


class MethodEntry(Entry):
    """A method, with a grid of its own where the experiment's does not suit it."""

    tune: Grid | None = None
    """A grid of its own, of as many settings as the others'."""
    per_task: dict[str, Overrides] = {}
    """Settings of this method on one task, by its task_name; they win over all others."""


def _as_entry(value: Any) -> Any:
    return {"config": value} if isinstance(value, str) else value


MAX_MEMBERS = 8
"""Default number of runs trained together."""


class SweepConfig(Section):
    """Which runs share a process.  Outside every digest: it says how runs are made, not what they are."""

    fuse: Literal["auto", "never"] = "auto"
    """Trains runs of one base that differ in seed, rank, rate and the like at once, each exactly as if alone; or never."""
    max_members: int = Field(default=MAX_MEMBERS, ge=1)
    """At most so many runs at once."""
    max_memory: ByteSize | None = None
    """At most as many runs at once as are predicted to take so much, of the GPU where there is one; such as `16GiB`."""
    in_turn: int | None = Field(default=None, ge=1)
    """At most so many runs one after another in a process; by itself 6 for a small base, else 1."""

    @property
    def largest(self) -> int:
        """Largest number of runs trained together."""
        return self.max_members if self.fuse == "auto" else 1


class ExperimentFile(Section):
    """What an experiment file may say."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Names the folder of the tables."""
    title: str | None = None
    """Of the tables."""
    caption: str | None = None
    """Of the LaTeX table; None: the title and what the numbers are."""
    label: str | None = None
    """Of the LaTeX table, to refer to it by."""
    tasks: list[Annotated[Entry, BeforeValidator(_as_entry)]] = Field(min_length=1)
    """Task configs."""
    methods: list[Annotated[MethodEntry, BeforeValidator(_as_entry)]] = Field(min_length=1)
    """Method files; every method is run on every task."""
    seeds: Seeds = Field(default=[0], min_length=1)
    """Every run is made once a seed; three or more say how far a score moves by chance."""
    baseline: str | None = None
    """The method that the others are compared with."""
    overrides: Overrides = {}
    """Settings of every run; `training.num_train_epochs: 1` and nested sections both do."""
    tune: Grid | None = None
    """Values to try of some settings.  Each task and method takes what does best on the validation split."""
    tune_seeds: Seeds = []
    """Seeds of the trials; the first of `seeds` where none is named."""
    forgetting: StatedDataset | None = None
    """General text, as in `dataset` (a .txt file by its name will do): the loss of every adapter that generates is measured
    on it, against the base model's."""
    sweep: SweepConfig = SweepConfig()
    """Which runs share a process."""
    merge: bool = False
    """Whether the workflow also merges every adapter that can be merged."""

    @property
    def general_text(self) -> BenchmarkEntry | None:
        """The perplexity entry that measures forgetting, on plain text without the task's templates."""
        if self.forgetting is None:
            return None
        wording = dict.fromkeys(("prompt_template", "response_template", "chat_template", "text_columns"))
        return BenchmarkEntry(name="perplexity", dataset={**wording, "columns": {}, "format": "text", **self.forgetting})


def read_experiment_file(path: Path) -> ExperimentFile:
    """Return the checked file at `path`.  Raises ConfigError with every error in it."""
    content = read_mapping(path)
    refuse_other_kinds(content, "experiment file", path)
    try:
        return ExperimentFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError([f"{path}: {line}" for line in lines_of(error, ExperimentFile)]) from None
