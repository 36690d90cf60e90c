"""Whether rows fit a config: columns, labels and answers to learn from, and what each benchmark asks of its own rows."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa

from lora_ns.benchmarks import Benchmark, benchmark
from lora_ns.benchmarks.generic import reference
from lora_ns.config import CHAT_FORMATS, DatasetConfig, RunConfig, nearest, template_columns
from lora_ns.data.labels import has_label, label_of, number_of
from lora_ns.data.prompts import (
    NoConversation,
    Row,
    check_columns,
    conversation_of,
    is_missing,
    prompt_of,
    response_of,
    text_of,
    texts_of,
)
from lora_ns.errors import DataError, InputError
from lora_ns.store.evaluation_file import EvaluationRequest
from lora_ns.workflow.preflight.finding import Finding, advice
from lora_ns.workflow.preflight.rows import Sample

NAMED_VALUES = 5


def check_task_rows(config: RunConfig, sample: Sample) -> Iterator[Finding]:
    """What of the rows to learn from does not fit."""
    data = config.dataset
    if "train" not in sample.splits and config.peft.method != "none":
        yield Finding(f"dataset.train_split: {data.name} has no rows to train on; it has: {sample.known_splits()}.")
    if config.evaluation.split == "validation" and "validation" not in sample.splits:
        yield Finding(
            f"evaluation.split: validation, and {data.name} has no such rows; it has: {sample.known_splits()}. Set "
            "dataset.validation_size to hold rows out of train."
        )
    for split in ("train", "validation"):
        if split not in sample.splits:
            continue
        try:
            check_columns(data, config.task_type, sample.splits[split].column_names, f"{data.name} ({split})")
        except DataError as error:
            yield Finding(str(error))
            continue
        yield from _of_files(config, sample)
        yield from _of_rows(config, split, sample)


def _of_files(config: RunConfig, sample: Sample) -> Iterator[Finding]:
    """Yield a finding for each needed column missing from one of several files; it would be empty in that file's rows."""
    wanted = _read_columns(config)
    for path, columns in sample.lacking.items():
        for name in wanted:
            if config.dataset.columns.get(name, name) in columns:
                yield Finding(f"dataset.name: {path} has no column {name!r}, which the files beside it have.")


def _read_columns(config: RunConfig) -> list[str]:
    """Return the columns that the config names for training rows."""
    data = config.dataset
    if config.task_type != "causal_lm":
        return [*(data.text_columns or []), data.label_column]
    return [*template_columns((data.prompt_template or "") + (data.response_template or ""))]


def _of_rows(config: RunConfig, split: str, sample: Sample) -> Iterator[Finding]:
    rows, data = sample.rows(split), config.dataset
    yield from _of_columns(config, split, sample.splits[split])
    if config.task_type == "classification":
        yield from _of_labels(data, split, rows, sample)
    if config.task_type == "regression":
        yield from _of_numbers(data, split, rows)
    try:
        reasons = Counter(reason for row in rows if (reason := why_lost(row, config)) is not None)
    except DataError as error:
        yield Finding(f"{data.name} ({split}): {error}")
        return
    lost = sum(reasons.values())
    if lost:
        said = ", ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
        looked_at = f"{lost} of {len(rows)}" if sample.whole else f"{lost} of the first {len(rows)}"
        text = f"{looked_at} {split} rows of {data.name} carry nothing to learn from ({said})"
        if lost > data.max_dropped * len(rows):
            yield Finding(f"dataset.max_dropped: {text}; it allows {data.max_dropped:.1%}.")
        else:
            yield advice(f"{text}.")


def why_lost(row: Row, config: RunConfig) -> str | None:
    """Reason why a row cannot be trained on, apart from its length; None if it can.

    Raises DataError if the row cannot fill the template.
    """
    data = config.dataset
    if config.task_type != "causal_lm":
        if not has_label(row, data):
            return "no label"
        return None if any(text.strip() for text in texts_of(row, data)) else "empty text"
    if data.format == "text":
        return None if text_of(row, data).strip() else "empty text"
    try:
        if data.is_chat or data.format in CHAT_FORMATS:
            conversation_of(row, data)
            return None
        prompt_of(row, data)
    except NoConversation as reason:
        return str(reason)
    return None if (response_of(row, data) or "").strip() else "empty response"


def _of_columns(config: RunConfig, split: str, table: pa.Table) -> Iterator[Finding]:
    """Yield findings about input columns that are empty or hold lists or objects."""
    data = config.dataset
    key = "dataset.text_columns" if config.task_type != "causal_lm" else "dataset.prompt_template"
    names = data.text_columns if config.task_type != "causal_lm" else template_columns(data.prompt_template or "")
    for name in names or []:
        column = table.column(name)
        if table.num_rows and all(is_missing(value) or value == "" for value in column.to_pylist()):
            yield Finding(f"{key}: the column {name!r} is empty in every row of {data.name} ({split}) that was looked at.")
        elif pa.types.is_nested(column.type):
            yield advice(
                f"{key}: the column {name!r} of {data.name} ({split}) holds lists or objects, which become text as Python "
                f"prints them, such as {str(column[0].as_py())[:40]!r}."
            )


def _of_labels(data: DatasetConfig, split: str, rows: Sequence[Row], sample: Sample) -> Iterator[Finding]:
    """Yield findings about unknown labels and unused classes."""
    labels, seen, unknown = data.labels or [], set(), Counter[str]()
    for row in rows:
        if not has_label(row, data):
            continue
        try:
            seen.add(label_of(row, data, 0))
        except DataError:
            unknown[str(row[data.label_column])] += 1
    if unknown:
        named = ", ".join(f"{value!r} ({count})" for value, count in unknown.most_common(NAMED_VALUES))
        more = f" and {len(unknown) - NAMED_VALUES} more" if len(unknown) > NAMED_VALUES else ""
        hidden = " -1 marks the hidden labels of a public test set: choose a labelled split." if "-1" in unknown else ""
        yield Finding(
            f"dataset.labels: {sum(unknown.values())} of {len(rows)} {split} rows of {data.name} have a "
            f"{data.label_column} that is none of {', '.join(labels)}: {named}{more}."
            f"{nearest(next(iter(unknown)).strip(), labels)}{hidden}"
        )
    elif sample.whole and split == "train" and len(seen) < len(labels):
        absent = ", ".join(repr(name) for number, name in enumerate(labels) if number not in seen)
        text = f"dataset.labels: no train row of {data.name} is {absent}"
        yield Finding(f"{text}: there is one class to learn.") if len(seen) == 1 else advice(f"{text}.")


def _of_numbers(data: DatasetConfig, split: str, rows: Sequence[Row]) -> Iterator[Finding]:
    for number, row in enumerate(rows):
        if not has_label(row, data):
            continue
        try:
            number_of(row, data, number)
        except DataError as error:
            yield Finding(f"dataset.label_column: {data.name} ({split}), {error}")
            return


def check_benchmark_rows(config: RunConfig, evaluation: EvaluationRequest, sample: Sample) -> Iterator[Finding]:
    """What of a benchmark's rows and solved examples does not fit."""
    spec, data = benchmark(evaluation.benchmark), evaluation.dataset
    where = f"evaluation.benchmarks: {spec.name}"
    if evaluation.split not in sample.splits:
        yield Finding(
            f"{where}: {data.name} has no {evaluation.split} rows (dataset.eval_split is {data.eval_split!r}); it has: "
            f"{sample.known_splits()}."
        )
        return
    rows = sample.rows(evaluation.split)
    try:
        if spec.prompt is None:
            answered = evaluation.num_fewshot > 0 or spec.kind == "perplexity"
            shown = data if answered else data.model_copy(update={"response_template": None})
            columns = sample.splits[evaluation.split].column_names
            check_columns(shown, config.task_type, columns, f"{data.name} ({evaluation.split})")
        rows = spec.select(rows) if spec.select else rows
        for number, row in enumerate(rows):
            _ask(spec, evaluation, config, row, number)
    except InputError as error:
        yield Finding(f"{where}: {error}")
        return
    yield from _of_examples(spec, evaluation, sample, where)


def _ask(spec: Benchmark, evaluation: EvaluationRequest, config: RunConfig, row: Row, number: int) -> None:
    """Build the row's prompt, choices and reference as the benchmark does.  Raises InputError naming what is missing."""
    data, column = evaluation.dataset, evaluation.settings.get("reference_column")
    if spec.kind in ("classification", "regression"):
        of = label_of if spec.kind == "classification" else number_of
        of(row, data, number)
        return
    if spec.prompt is not None:
        spec.prompt(row)
    if spec.choices is not None:
        spec.choices(row, evaluation.settings)
    elif column is not None and column not in row:
        raise DataError(f"settings.reference_column: there is no column {column!r}.{nearest(column, row)}")
    elif column is not None:
        reference(row, column)
    elif column is None and spec.reference is not None and data.format not in CHAT_FORMATS:
        spec.reference(row)


def _of_examples(spec: Benchmark, evaluation: EvaluationRequest, sample: Sample, where: str) -> Iterator[Finding]:
    """Yield findings about missing few-shot examples."""
    wanted, data = evaluation.num_fewshot, evaluation.dataset
    if not wanted:
        return
    train = sample.rows("train")
    if spec.examples is not None:
        try:
            fixed = spec.examples([*sample.rows(evaluation.split), *train])
        except DataError as error:
            yield Finding(f"{where}: {error}")
            return
        if wanted > len(fixed):
            yield Finding(f"{where}: num_fewshot asks for {wanted} solved examples, and it has {len(fixed)}.")
    elif not train or (sample.whole and len(train) < wanted):
        yield Finding(
            f"{where}: num_fewshot draws {wanted} solved examples from the train split, and {data.name} has "
            f"{len(train) or 'none'} there.  Name its training rows too: dataset.name: {{train: …, test: …}}."
        )
