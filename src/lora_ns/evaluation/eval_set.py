"""The rows of one benchmark for one model: selected rows, few-shot examples, and prompts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lora_ns.benchmarks import Benchmark, benchmark
from lora_ns.benchmarks.generic import reference
from lora_ns.config import CHAT_FORMATS, DatasetConfig, RunConfig
from lora_ns.data import sources
from lora_ns.data.chat_template import chat_of
from lora_ns.data.contamination import forms_of
from lora_ns.data.encoding import encode_prompts
from lora_ns.data.prompts import (
    NoConversation,
    Prompt,
    Row,
    check_columns,
    instructed,
    prompt_of,
    response_of,
    text_of,
    with_examples,
)
from lora_ns.errors import DataError
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.store.integrity import load_verified
from lora_ns.store.paths import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvalSet:
    """Evaluation rows and few-shot examples of one evaluation request.

    ids: the row's own id if ids are unique, else its number in the split.
    examples: few-shot examples before each question; example_numbers: their row numbers in the train split.
    without_text: number of blank rows that perplexity leaves out.
    """

    spec: Benchmark
    evaluation: EvaluationRequest
    task_type: str
    rows: list[Row]
    ids: list[str]
    examples: list[Row]
    example_numbers: list[int] | None
    without_text: int = 0
    _encoded: list[Any] = field(default_factory=list, repr=False)

    @property
    def dataset(self) -> DatasetConfig:
        return self.evaluation.dataset

    def part(self, places: Sequence[int]) -> EvalSet:
        """A subset of the rows."""
        rows, ids = [self.rows[place] for place in places], [self.ids[place] for place in places]
        return replace(self, rows=rows, ids=ids, _encoded=[])

    @cached_property
    def is_instructed(self) -> bool:
        """Whether prompts are instructions, for a model trained on instructions."""
        return self.spec.instruction is not None and (self.dataset.is_chat or self.dataset.format == "alpaca")

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts, few-shot examples first.  Raises DataError for a row with an empty prompt."""
        examples = [(self._question(row), self._answer(row)) for row in self.examples]
        return [with_examples(self._question(row), examples) for row in self.rows]

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """The prompts' token ids, cached for the next model with the same tokenizer."""
        if not self._encoded or self._encoded[0] is not tokenizer:
            chat = chat_of(self.dataset, tokenizer)
            self._encoded[:] = [tokenizer, encode_prompts(self.prompts, tokenizer, chat)]
        return self._encoded[1]

    def _question(self, row: Row) -> Prompt:
        if self.is_instructed:
            assert self.spec.instruction is not None
            return instructed(self.spec.instruction(row), self.dataset)
        if self.spec.prompt is not None:
            return instructed(self.spec.prompt(row), self.dataset)
        try:
            return prompt_of(row, self.dataset)
        except NoConversation as reason:
            raise DataError(f"a row of {self.spec.name} cannot be asked: {reason}.") from None

    def _answer(self, row: Row) -> str:
        if self.is_instructed:
            answer = self.spec.gold(row) if self.spec.gold else None
        elif self.spec.example_answer is not None:
            answer = self.spec.example_answer(row)
        else:
            answer = response_of(row, self.dataset)
        if answer is None:
            raise DataError(f"a few-shot example of {self.spec.name} has no answer: choose another fewshot_seed.")
        return answer

    @cached_property
    def questions(self) -> list[list[str]]:
        """Each row's question in every form that may occur in training rows: bare, and in the prompt template."""
        return [forms_of(row, self.spec, self.dataset, self.task_type) for row in self.rows]

    def reference(self, row: Row) -> Any:
        """The reference of a row, as in the predictions file."""
        column = self.evaluation.settings.get("reference_column")
        if column is not None:
            return row.get(column) if self.spec.kind == "choice" else reference(row, column)
        return self.spec.reference(row) if self.spec.reference else None


def read_eval_set(config: RunConfig, evaluation: EvaluationRequest, store: Store) -> EvalSet:
    """The rows of an evaluation, selected, limited and checked.  Raises DataError if they do not fit the benchmark."""
    spec, dataset, folder = benchmark(evaluation.benchmark), evaluation.dataset, store.rows(evaluation.dataset)
    load_verified(folder)
    table = sources.read(folder, evaluation.split, dataset.columns)
    if spec.prompt is None:
        answered = evaluation.num_fewshot > 0 or spec.kind == "perplexity"
        shown = dataset if answered else dataset.model_copy(update={"response_template": None})
        check_columns(shown, config.task_type, table.column_names, f"{dataset.name} ({evaluation.split})")
    rows = _with_reference(table.to_pylist(), dataset)
    asked = [(row, id_) for row, id_ in zip(rows, _ids(rows), strict=True) if _holds_text(row, spec, dataset)]
    without_text = len(rows) - len(asked)
    if spec.select:
        kept = {id(row) for row in spec.select([row for row, _ in asked])}
        asked = [pair for pair in asked if id(pair[0]) in kept]
    if evaluation.limit is not None and evaluation.limit < len(asked):
        places = random.Random(f"{dataset.split_seed} {spec.name} limit").sample(range(len(asked)), evaluation.limit)
        asked = [asked[place] for place in sorted(places)]
    if not asked:
        raise DataError(f"{spec.name}: no row of {dataset.name} ({evaluation.split}) holds any text.")
    chosen, ids = [row for row, _ in asked], [id_ for _, id_ in asked]
    examples, numbers = _examples(spec, evaluation, folder, rows)
    eval_set = EvalSet(spec, evaluation, config.task_type, chosen, ids, examples, numbers, without_text)
    if spec.kind == "generation":
        for row in chosen:  # a row without a reference is reported before the model is loaded
            eval_set.reference(row)
    return eval_set


def _holds_text(row: Row, spec: Benchmark, dataset: DatasetConfig) -> bool:
    """Return False for a blank row in plain-text perplexity data. WikiText has blank rows between paragraphs."""
    return spec.kind != "perplexity" or dataset.format != "text" or bool(text_of(row, dataset).strip())


def _ids(rows: Sequence[Row]) -> list[str]:
    for key in ("id", "idx", "task_id", "unique_id"):
        values = [str(row.get(key)) for row in rows]
        if rows and key in rows[0] and len(set(values)) == len(values):
            return values
    return [str(number) for number in range(len(rows))]


def _with_reference(rows: list[dict[str, Any]], dataset: DatasetConfig) -> list[Row]:
    """Add the last assistant turn as column `reference` to conversations that have none."""
    if dataset.format not in CHAT_FORMATS or not rows or "reference" in rows[0]:
        return list(rows)
    return [{**row, "reference": _last_answer(row, dataset)} for row in rows]


def _last_answer(row: Mapping[str, Any], dataset: DatasetConfig) -> str | None:
    try:
        return response_of(row, dataset)
    except (NoConversation, KeyError):
        return None


def _examples(
    spec: Benchmark, evaluation: EvaluationRequest, folder: Any, rows: Sequence[Row]
) -> tuple[list[Row], list[int] | None]:
    """(few-shot examples, their row numbers in the train split, or None for the benchmark's fixed examples)."""
    wanted = evaluation.num_fewshot
    if wanted == 0:
        return [], None
    train = folder / "train.parquet"
    table = sources.read(folder, "train", evaluation.dataset.columns) if train.is_file() else None
    if spec.examples is not None:
        everything = [*rows, *(table.to_pylist() if table is not None else [])]
        fixed = spec.examples(everything)
        if wanted > len(fixed):
            raise DataError(f"{spec.name} has {len(fixed)} few-shot examples; num_fewshot asks for {wanted}.")
        return fixed[:wanted], None
    if table is None or table.num_rows < wanted:
        raise DataError(
            f"num_fewshot of {spec.name} draws {wanted} solved examples from the train split, and its data set "
            f"{evaluation.dataset.name} has {'none' if table is None else table.num_rows} there. "
            "Name its training rows too: dataset.name: {train: …, test: …}."
        )
    numbers = random.Random(f"{evaluation.fewshot_seed} few-shot").sample(range(table.num_rows), wanted)
    examples = _with_reference(pa.Table.to_pylist(table.take(numbers)), evaluation.dataset)
    return examples, numbers
