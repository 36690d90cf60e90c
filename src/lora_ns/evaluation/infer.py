"""Answers of a trained, merged or base model: to one text, or to a file of them.  READS adapter   WRITES the output file

A file's answers are kept in `<output>.part` as they come, a line each, and written in the order of the rows at the end: an
interrupted call goes on where it was, and the output exists exactly when it is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config import CHAT_FORMATS, DatasetConfig, GenerationConfig, ModelConfig, RunConfig, nearest, template_columns
from lora_ns.data.chat_template import Chat, chat_of
from lora_ns.data.encoding import encode_prompts
from lora_ns.data.prompts import NoConversation, Prompt, instructed, prompt_of, texts_of
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.errors import ConfigError, DataError
from lora_ns.evaluation.engines.decoding import with_stops
from lora_ns.evaluation.generation import Generator
from lora_ns.evaluation.predict import head_logits
from lora_ns.evaluation.predictions import Answer, PredictionsFile, Row, output_line, read_rows
from lora_ns.models.adapter import load_adapter, load_trained
from lora_ns.models.base_model import best_device, load_base, make_deterministic
from lora_ns.models.machine import check_machine
from lora_ns.store.artifact import is_finished
from lora_ns.store.digests import digest_of, reading_settings
from lora_ns.store.integrity import load_verified
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLOCK = 8
"""Batches generated and saved together. Within a block a slot goes to the next row as soon as it is free."""

Progress = Callable[[int, int], None]
"""Called with the number of rows just answered and the number of all rows."""


@dataclass(frozen=True)
class Subject:
    """A model and its decoding settings."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    config: RunConfig
    generation: GenerationConfig
    chat: Chat | None
    raw: bool
    identity: dict[str, Any]
    """What determines the answers, besides the rows."""

    @property
    def is_causal(self) -> bool:
        """Whether the model generates text (not a class or a number)."""
        return self.config.task_type == "causal_lm"


def load_subject(run: Run, *, adapter: Path | None = None, base: bool = False, raw: bool = False) -> Subject:
    """Load the model of a run: with its own adapter, with another folder's (adapter or whole model), or the base model alone.

    raw: texts are used as prompts without a template.  Raises ConfigError or DataError if there is no such model.
    """
    config, store = run.config, run.store
    check_machine(config, training=False)
    make_deterministic(config.seed)
    source: dict[str, Any] = {"model": run.model_identity}
    model_config = config.model
    model: Any
    if base or (adapter is None and config.peft.method == "none"):
        if config.task_type != "causal_lm":
            raise ConfigError(f"--base: the base model has no trained head for {config.task_type}.")
        model = load_base(run)
    elif adapter is None:
        if not run.is_trained:
            raise DataError(f"run {run.name} has no adapter yet: `lora-ns train` makes it, --adapter DIR names another.")
        model, source["run"] = load_trained(run, run.adapter), run.name
    elif (adapter / "adapter_config.json").is_file():
        _refuse_damaged(adapter, store)
        model = load_adapter(load_base(run), adapter, config.model.name_or_path)
        source["adapter"] = _checksums(adapter)
    elif (adapter / "config.json").is_file():
        _refuse_damaged(adapter, store)
        model, source = load_base(run, place=str(adapter)), {"folder": _checksums(adapter)}
        if (adapter / "tokenizer_config.json").is_file():
            model_config = ModelConfig(name_or_path=str(adapter))
    else:
        raise ConfigError(f"--adapter: {adapter} holds neither a PEFT adapter nor a model.")
    tokenizer = load_tokenizer(model_config, store)
    generation = decoding_of(run)
    identity = {
        **source,
        "task_type": config.task_type,
        "dtype": config.model.dtype,
        "quantization": config.model.quantization,
        "view": None if raw else reading_settings(config.dataset),
        "generation": generation.model_dump() if config.task_type == "causal_lm" else None,
    }
    chat = None if raw else chat_of(config.dataset, tokenizer)
    return Subject(model.to(best_device()).eval(), tokenizer, config, generation, chat, raw, identity)


def _refuse_damaged(folder: Path, store: Store) -> None:
    """Raises DamagedError for a folder that differs from its record, or that is in the store and has no record.

    A folder made by other tools has no record and is not checked.
    """
    if store.contains(folder):
        load_verified(folder)
    elif is_finished(folder):
        load_verified(folder, elsewhere=True)


def _checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}


def decoding_of(run: Run) -> GenerationConfig:
    """Decoding settings of the config's first generation benchmark, else those of `evaluation.generation`."""
    asked = run.config.evaluation
    if run.config.task_type == "causal_lm" and asked.benchmarks:
        return run.evaluation(asked.benchmarks[0]).generation
    return GenerationConfig.model_validate(asked.generation)


def row_of(texts: Sequence[str], config: RunConfig) -> Row:
    """Texts from the command line as a row, one for each column.  Raises ConfigError if the number differs."""
    columns = columns_read(config)
    if len(texts) != len(columns):
        what = ", ".join(columns) if columns else "one text"
        raise ConfigError(f"--text: {len(texts)} given, and the config reads {what}; give --text once for each, in that order.")
    return dict(zip(columns, texts, strict=True))


def columns_read(config: RunConfig) -> list[str]:
    """The columns that the prompt or the classifier's input uses."""
    data = config.dataset
    if config.task_type != "causal_lm":
        return list(data.text_columns or [])
    if data.format == "plain" and data.prompt_template:
        return [*template_columns(data.prompt_template)]
    return ["text"]


def prompt_from(row: Row, subject: Subject, where: str) -> Prompt:
    """The prompt of a row in the run's template, or the plain text for --raw.  Raises DataError that names the row."""
    data = subject.config.dataset
    if subject.raw:
        return str(_column(row, "text", where))
    if data.format == "plain":
        for name in columns_read(subject.config):
            _column(row, name, where)
        return prompt_of(row, data) if data.prompt_template else instructed(str(row["text"]), data)
    try:
        if data.format in CHAT_FORMATS and _turns(row, data):
            return prompt_of(_asking(row, data), data)
        if data.format == "alpaca" and "instruction" in row:
            return prompt_of(row, data)
    except NoConversation as reason:
        raise DataError(f"{where}: {reason}.") from None
    return instructed(str(_column(row, "text", where)), data)


def _renamed(row: Row, data: DatasetConfig) -> Row:
    """The row with the config's column names, as in training."""
    kept = {name: value for name, value in row.items() if data.columns.get(name, name) is not None}
    return {**kept, **{new: row[old] for new, old in data.columns.items() if old is not None and old in row}}


def _column(row: Row, name: str, where: str) -> Any:
    if name not in row:
        raise DataError(f"{where}: the column {name!r} is missing.{nearest(name, row)} It has: {', '.join(row) or 'nothing'}.")
    return row[name]


def _turns(row: Row, data: DatasetConfig) -> Any:
    return row.get("conversations" if data.format == "sharegpt" else "messages")


def _asking(row: Row, data: DatasetConfig) -> Row:
    """The conversation, with a placeholder answer appended if its last turn is the user's."""
    column, role, content, name = (
        ("conversations", "from", "value", "gpt") if data.format == "sharegpt" else ("messages", "role", "content", "assistant")
    )
    turns = list(_turns(row, data))
    if turns and isinstance(turns[-1], Mapping) and turns[-1].get(role) in ("user", "human"):
        turns.append({role: name, content: "…"})
    return {**row, column: turns}


def texts_from(row: Row, subject: Subject, where: str) -> list[str]:
    """The classifier's input texts.  Raises DataError that names the row."""
    data = subject.config.dataset
    for name in data.text_columns or []:
        _column(row, name, where)
    return texts_of(row, data)


def classify(subject: Subject, texts: Sequence[Sequence[str]]) -> list[Answer]:
    """Return {label, probabilities} for each text or pair of texts, or {value} for regression."""
    data = subject.config.dataset
    logits = head_logits(subject.model, subject.tokenizer, texts, data.max_length).float()
    if subject.config.task_type == "regression":
        return [{"value": value} for value in logits[:, 0].tolist()]
    labels = data.labels or []
    answers = []
    for row in logits.softmax(-1).tolist():
        best = max(range(len(row)), key=row.__getitem__)
        answers.append({"label": labels[best], "probabilities": {k: round(p, 6) for k, p in zip(labels, row, strict=True)}})
    return answers


def complete(subject: Subject, prompts: Sequence[Prompt], keys: Sequence[str], size: int | None = None) -> list[Answer]:
    """Return {completion} for each prompt, or {completions} if several are sampled.

    keys: the rows' names; sampling depends on them and the seed.  size: batch size.
    """
    config, stop_ids = with_stops(subject.generation, subject.chat)
    ids = encode_prompts(list(prompts), subject.tokenizer, subject.chat)
    generator = Generator(subject.model, subject.tokenizer, config, stop_ids=stop_ids, size=size)
    found = generator.texts(ids, keys)
    return [{"completion": one[0]} if len(one) == 1 else {"completions": one} for one in found]


def infer_file(
    subject: Subject,
    source: Path,
    output: Path,
    *,
    batch_size: int,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> int:
    """Answer every row of a .jsonl file or line of a .txt file.  Returns their number.

    They are asked in blocks of rows of like length, always the same ones, so that going on gives what one call would have
    given.
    Raises ConfigError where the output is there, or was begun by another call.
    """
    rows = read_rows(source, ["text"] if subject.raw else columns_read(subject.config))
    to_ask = prompt_from if subject.is_causal else texts_from
    named = [row if subject.raw else _renamed(row, subject.config.dataset) for row in rows]
    asked: list[Any] = [to_ask(row, subject, f"{source}, row {i + 1}") for i, row in enumerate(named)]
    blocks = _blocks(asked, batch_size * (BLOCK if subject.is_causal else 1))
    call = {**subject.identity, "input": sha256_file(source), "rows": len(rows), "batch_size": batch_size}
    journal = PredictionsFile(output, digest_of(call), overwrite=overwrite)
    answers = journal.answers
    for block in blocks:
        if not all(i in answers for i in block):
            wanted = [asked[i] for i in block]
            if subject.is_causal:
                found = complete(subject, wanted, [str(i) for i in block], batch_size)
            else:
                found = classify(subject, wanted)
            journal.add(dict(zip(block, found, strict=True)))
        progress(len(block), len(rows))
    columns = {name for row in rows for name in row}
    journal.finish([output_line(row, answers[i], output, columns) for i, row in enumerate(rows)])
    return len(rows)


def _blocks(asked: Sequence[Any], size: int) -> list[list[int]]:
    """Row numbers, longest rows first, in blocks."""
    order = sorted(range(len(asked)), key=lambda i: (-len(str(asked[i])), i))
    return [order[start : start + size] for start in range(0, len(order), size)]
