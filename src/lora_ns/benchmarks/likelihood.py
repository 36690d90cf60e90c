"""Log-likelihood benchmarks: multiple choice and perplexity.

    row          {"question": "The capital of France?", "choices": ["Rome", "Paris"], "answer": 1}
    prompt       "Question: The capital of France?\\nAnswer:"            by the task's prompt template
    answers      " Rome", " Paris"                                      each after the prompt, by its log-likelihood
    verdict      accuracy 1.0 if " Paris" is the most likely, accuracy_norm 1.0 if it is so per byte

Settings of multiple_choice: `choices_column` (default `choices`; a list, or ARC's {text, label}) or `choices`, the same
answers for all rows; `reference_column` (default: the first of `answer`, `label`, `answerKey`, `gold` in the row), with
the right answer's label if the row has labels, else its number from 0, its text or its letter; `choice_template`
(default ` {choice}`).

perplexity measures the loss on the supervised tokens of the task's own rows, as in training.  `loss` is nats per token
over all of them, `perplexity` its exponential. `bits_per_byte` does not depend on the tokenizer.  Blank rows of a text,
as between WikiText's paragraphs, are left out and counted in the score's warnings.

Source of accuracy_norm: EleutherAI/lm-evaluation-harness, `acc_norm`.
"""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from lora_ns.benchmarks import Benchmark, Row
from lora_ns.benchmarks.scorers import as_reference
from lora_ns.errors import ConfigError, DataError

REFERENCE_COLUMNS = ("answer", "label", "answerKey", "gold")


def choices_of(row: Row, settings: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return the choices, each as a completion of the prompt, and the index of the right one.  Raises DataError."""
    given = settings.get("choices") or _column(row, str(settings.get("choices_column", "choices")))
    labels: Sequence[str] | None = None
    if isinstance(given, Mapping):
        labels, given = [str(label) for label in given["label"]], given["text"]
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    texts = [text for text in map(as_reference, listed) if text is not None]
    if len(texts) < max(2, len(listed)):
        raise DataError(f"multiple_choice needs a list of two choices or more, texts or numbers; a row has {given!r}.")
    template = str(settings.get("choice_template", " {choice}"))
    return [template.format(choice=text) for text in texts], _right(_reference(row, settings), texts, labels)


def _reference(row: Row, settings: Mapping[str, Any]) -> Any:
    column = settings.get("reference_column") or next((name for name in REFERENCE_COLUMNS if name in row), "answer")
    return _column(row, str(column))


def _right(value: Any, texts: Sequence[str], labels: Sequence[str] | None) -> int:
    """Return the index of the right choice.  labels are tried first: ARC's label 3 need not be the choice with text 3."""
    text = str(value).strip()
    if isinstance(value, float) and value.is_integer() and text not in (*texts, *(labels or ())):
        text = str(int(value))  # 1, from a column with gaps
        value = value if text in texts else int(value)
    if labels is not None and text in labels[: len(texts)]:
        return labels.index(text)
    if isinstance(value, int) and 0 <= value < len(texts):
        return int(value)
    if text in texts:
        return texts.index(text)
    if labels is None and len(text) == 1 and text in ascii_uppercase[: len(texts)]:
        return ascii_uppercase.index(text)
    if text.isdigit() and int(text) < len(texts):
        return int(text)
    raise DataError(f"multiple_choice: {value!r} is none of the choices {', '.join(texts)}.")


def _column(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise DataError(f"multiple_choice needs a column {name!r}; the row has {', '.join(map(str, row))}.")
    return row[name]


def _check_choices(settings: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
    choices = settings.get("choices")
    if choices is not None and (not isinstance(choices, list) or len(choices) < 2):
        raise ConfigError(f"multiple_choice: choices: expected a list of two or more, found {choices!r}.")
    template = settings.get("choice_template", "{choice}")
    if "{choice}" not in str(template):
        raise ConfigError(f"multiple_choice: choice_template: has no {{choice}} in it: {template!r}.")


BENCHMARKS = [
    Benchmark(
        name="multiple_choice",
        kind="choice",
        main_metric="accuracy",
        metrics=("accuracy", "accuracy_norm"),
        choices=choices_of,
        protocol=3,
        settings=("choices", "choices_column", "reference_column", "choice_template"),
        check=_check_choices,
    ),
    Benchmark(name="perplexity", kind="perplexity", main_metric="perplexity", metrics=("perplexity", "loss", "bits_per_byte")),
]
