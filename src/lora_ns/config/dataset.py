"""The `dataset` section: source of the rows, splits, templates and columns."""

import json
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lora_ns.config.base import Section
from lora_ns.config.messages import some_of

Format = Literal["plain", "alpaca", "sharegpt", "messages", "text"]
CHAT_FORMATS = ("sharegpt", "messages")
"""Formats whose rows are conversations."""

FORMAT_COLUMNS: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
}
"""Required columns of each format. An alpaca row may also have `input`."""

FileKind = Literal["jsonl", "json", "csv", "tsv", "parquet", "lines"]
FILE_KINDS: dict[str, FileKind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "lines",
}
"""File ending (before a `.gz`) -> file kind."""


def file_kind(path: Path) -> FileKind | None:
    """Return the kind of a data file from its ending; None for an unknown ending."""
    name = path.name.removesuffix(".gz")
    return FILE_KINDS.get(Path(name).suffix.lower())


def _one_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _each_once(values: list[str]) -> list[str]:
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is named twice")
    return values


Files = Annotated[list[str], BeforeValidator(_one_as_list), Field(min_length=1)]


Names = Annotated[list[str], AfterValidator(_each_once)]


def _checked_options(given: Any) -> Any:
    """Return the options with `date` as ISO text, since YAML reads it as a date.  Raises ValueError for invalid options."""
    if not isinstance(given, dict):
        return given
    told = {**given}
    if "date" in given:
        try:
            told["date"] = date.fromisoformat(str(given["date"])).isoformat()
        except ValueError:
            raise ValueError(f"date: expected YYYY-MM-DD, found {given['date']!r}") from None
    try:
        json.dumps(told)
    except TypeError as error:
        raise ValueError(f"only text, numbers, true or false, lists and keys can be told: {error}") from None
    return told


TemplateOptions = Annotated[dict[str, Any], BeforeValidator(_checked_options)]


def _stated_dataset(given: dict[str, Any]) -> dict[str, Any]:
    """Return the stated subset of DatasetConfig's fields, after checking it.  Raises ValueError."""
    return some_of(DatasetConfig, given, "key", name="any")


StatedDataset = Annotated[dict[str, Any], AfterValidator(_stated_dataset)]


class HeldOut(Section):
    """Rows of another data set that count as test rows of this one."""

    benchmark: str
    """That asks them; each row is looked for in all the ways in which it may be put."""
    dataset: StatedDataset
    """As in `evaluation.benchmarks`."""
    settings: dict[str, Any] = {}
    """The same."""


class DatasetConfig(Section):
    """Where rows come from and how a row becomes text."""

    name: str | Files | dict[str, Files]
    """A hub name; a local file, list of files, folder, or {train: …, validation: …, test: …}; or `builtin:<name>`."""
    subset: str | None = None
    """Which part of a hub set (GLUE's `mrpc`)."""
    revision: str | None = None
    """The commit of a hub set; without it the result cannot be made again for sure, and the tables say so."""
    options: dict[str, Any] = {}
    """Settings of a builtin source, such as num_train."""
    file_kind: FileKind | None = None
    """How local files are read where their ending does not say it (GLUE's `msr_paraphrase_test.txt` is a tsv)."""
    column_names: list[str] | None = None
    """The columns of a csv or tsv file that has no header line."""
    columns: dict[str, str | None] = {}
    """New column name: column of the data, for templates written for other names; one that has the new name is fine.  null:
    a column of that name is not read."""
    train_split: str = "train"
    """What the data calls the rows to learn from."""
    validation_split: str | None = None
    """What it calls the rows to choose settings on; None: `validation`, where there is one."""
    eval_split: str = "test"
    """What it calls the rows to be tested on."""
    validation_size: float | int | None = Field(default=None, gt=0)
    """Rows (or share below 1) to hold out of train for choosing settings, where the data has no validation split."""
    eval_size: float | int = Field(default=0.1, gt=0)
    """Rows (or share below 1) to hold out of train where the data has no eval split; the record says so."""
    split_seed: int = 0
    """Of every choice of rows: held out, sampled."""
    max_samples: int | None = Field(default=None, gt=0)
    """At most so many training rows: a seeded sample, never the first ones."""
    max_validation_samples: int | None = Field(default=None, gt=0)
    """At most so many validation rows, a seeded sample."""
    max_eval_samples: int | None = Field(default=None, gt=0)
    """At most so many test rows, a seeded sample."""
    streaming: bool = False
    """Reads a hub set row by row up to `max_samples`, for what does not fit on the disk."""
    overlap: Literal["report", "drop", "fail"] = "report"
    """Training rows that ask what a test or validation row asks: count and list them, leave them out, or fail.
    Rows of a benchmark's own data set: count and list them in the score; leave out or fail before training just as well."""
    held_out: list[HeldOut] | None = None
    """The benchmarks with a data set of their own whose rows `overlap` leaves out or fails on (None: those of
    `evaluation.benchmarks`)."""

    format: Format = "plain"
    """What a row is: columns for templates, instruction/input/output, a conversation, or text to go on learning from."""
    chat_template: str | None = None
    """How a conversation becomes text: `tokenizer` (its own template), `tulu` (for tokenizers without one), or a `.jinja`
    file.  Conversations take `tokenizer` where nothing is said; for `plain` and `alpaca` rows it makes prompt and
    response one user's and one assistant's turn."""
    chat_template_options: TemplateOptions = {}
    """What the template is told beside the conversation.  date (YYYY-MM-DD): the day that it writes as today's; a template
    that writes it (`strftime_now`) is refused without, as the same config would give other tokens tomorrow."""
    prompt_template: str | None = None
    """What is asked, with columns in braces; None: the model starts from nothing."""
    response_template: str | None = None
    """What the model learns to answer, with columns in braces; the end of sequence is added."""
    text_columns: Names | None = Field(default=None, min_length=1, max_length=2)
    """Classification and regression: the one or two columns that are read; format `text`: the one (default: text)."""
    label_column: str = "label"
    """Classification and regression: the column of the class or the number."""
    labels: Names | None = Field(default=None, min_length=2)
    """Classification: the classes in the order of their numbers."""
    max_length: int = Field(default=1024, gt=0)
    """Tokens of prompt and response together."""
    max_dropped: float = Field(default=0.01, ge=0, le=1)
    """Share of training rows that may be lost (too long for any answer, empty) before tokenising fails."""

    @property
    def is_builtin(self) -> bool:
        """Whether the project generates the rows itself."""
        return isinstance(self.name, str) and self.name.startswith("builtin:")

    @property
    def is_hub(self) -> bool:
        """Whether `name` is a hub name: neither builtin, nor a data file by its ending, nor a path that exists."""
        if not isinstance(self.name, str) or self.is_builtin:
            return False
        path = Path(self.name).expanduser()
        looks_local = path.is_absolute() or self.name.startswith(("./", "../", "~")) or file_kind(path) is not None
        return not looks_local and not path.exists()

    @property
    def is_chat(self) -> bool:
        """Whether prompts go through a chat template."""
        return self.chat_template is not None


ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "model"), "assistant"),
}
"""Role name in data sets -> role name in chat templates."""
