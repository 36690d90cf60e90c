"""Benchmarks: what is asked of a model, and when its answer counts as right.

One file, one benchmark (or one family that differs in its name only).  Each module defines `BENCHMARKS`, a list of
`Benchmark`; `benchmark(name)` finds one.

Often no file is needed.  `exact_match`, `contains`, `regex`, `choice_letter` judge generated text, `multiple_choice`
compares log-likelihoods, `perplexity` measures them, `classification` and `regression` compare labels: each reads columns
of one's own, named in the config (`configs/template.yaml` shows them).

docs/how_to/add_a_benchmark.md adds one step by step.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.errors import ConfigError

if TYPE_CHECKING:
    from lora_ns.benchmarks.sandbox import Program

Row = Mapping[str, Any]
"""One row of the data, by column name."""

Kind = Literal["generation", "choice", "perplexity", "classification", "regression"]
TASK_TYPE_OF: dict[Kind, str] = {
    "generation": "causal_lm",
    "choice": "causal_lm",
    "perplexity": "causal_lm",
    "classification": "classification",
    "regression": "regression",
}
"""Kind of benchmark -> task_type that the model must have."""


@dataclass(frozen=True)
class ExampleResult:
    """The verdict on one example.

    parsed: the answer extracted from the completion (None if there was none).
    scores: metric name -> value for this example (1.0 right, 0.0 wrong; a number for graded metrics). Only metrics that
        are means over examples.
    detail: further JSON values for the predictions file (outcome of a program, second parse, …).
    """

    parsed: Any
    scores: Mapping[str, float]
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: how prompts are made from rows and how completions are scored."""

    name: str
    kind: Kind
    """generation scores generated text; choice compares the log-likelihoods of given answers; perplexity measures that of
    the right answer; classification and regression compare labels."""
    main_metric: str
    metrics: tuple[str, ...]
    """Names of all metrics, including the main one."""

    select: Callable[[Sequence[Row]], list[Row]] | None = None
    """All rows of the split -> the rows of the benchmark.  None: all."""
    prompt: Callable[[Row], str] | None = None
    """Row -> prompt.  None: the task's own templates are applied to the row."""
    instruction: Callable[[Row], str] | None = None
    """Row -> prompt as an instruction, for models trained on instructions or conversations.  None: `prompt`."""
    asked: Callable[[Row], Sequence[str]] | None = None
    """Row -> the bare question, in each form that training rows may contain, for the contamination check.  None: the
    prompt, or the columns of the task's own template."""
    num_fewshot: int = 0
    """Default number of few-shot examples. An `instruction` gets none."""
    examples: Callable[[Sequence[Row]], list[Row]] | None = None
    """All rows of the data set -> its fixed few-shot examples.  None: drawn from the train split by seed."""
    example_answer: Callable[[Row], str] | None = None
    """Row -> the completion of a few-shot example after `prompt`, with the separator to the next.  None: the task's
    response template and a blank line."""

    reference: Callable[[Row], Any] | None = None
    """Row -> reference for the judge (a JSON value). Classification and regression use the label instead."""
    judge: Callable[[Sequence[Row], Sequence[Sequence[str]], Mapping[str, Any]], list[ExampleResult]] | None = None
    """(rows, completions, settings) -> one ExampleResult per row; completions[i] holds the n samples drawn for row i."""
    aggregate: Callable[[Sequence[ExampleResult]], dict[str, float]] | None = None
    """ExampleResults -> metrics in addition to the means of ExampleResult.scores.  None: the means only."""
    metrics_of_labels: Callable[[Sequence[Any], Sequence[Any]], dict[str, float]] | None = None
    """(predictions, references) -> metrics; classification and regression only."""
    choices: Callable[[Row, Mapping[str, Any]], tuple[list[str], int]] | None = None
    """(row, settings) -> (the answers to choose from, number of the right one); choice only."""
    program: Callable[[Row, str, float], Program] | None = None
    """(row, completion, timeout in seconds) -> program for the sandbox; set where completions are programs."""
    gold: Callable[[Row], str | None] | None = None
    """Row -> a completion known to be right, used to check the sandbox first."""

    settings: tuple[str, ...] = ()
    """Names that `evaluation.benchmarks[].settings` may hold."""
    check: Callable[[Mapping[str, Any], Mapping[str, Any]], None] | None = None
    """(settings, decoding settings): raises ConfigError for an invalid value, before anything is computed."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Default decoding settings of the benchmark (stop strings, max_new_tokens), overridden by the config."""
    instruction_stop: tuple[str, ...] = ()
    """Stop strings after an `instruction`, instead of those in `generation`."""
    protocol: int = 1
    """Version of the scoring. Raise it by hand when a change of the code changes the meaning of a score."""


_MODULES = ("gsm8k", "math", "glue", "code", "generic", "likelihood")


def benchmarks_by_module() -> dict[str, list[Benchmark]]:
    """Return full module name -> its benchmarks."""
    names = [f"{__name__}.{module}" for module in _MODULES]
    return {name: importlib.import_module(name).BENCHMARKS for name in names}


@cache
def all_benchmarks() -> dict[str, Benchmark]:
    """Return every benchmark by name."""
    return {entry.name: entry for entries in benchmarks_by_module().values() for entry in entries}


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name.  Raises ConfigError with the nearest known name."""
    known = all_benchmarks()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"evaluation.benchmarks: there is no benchmark {name!r}.{hint} Known: {', '.join(sorted(known))}.")
    return known[name]


def check_request(
    spec: Benchmark, task_type: str, settings: Mapping[str, Any], generation: Mapping[str, Any], num_fewshot: int
) -> None:
    """Check an evaluation request.  Raises ConfigError for a wrong task type, setting or number of few-shot examples."""
    if TASK_TYPE_OF[spec.kind] != task_type:
        fitting = ", ".join(sorted(n for n, b in all_benchmarks().items() if TASK_TYPE_OF[b.kind] == task_type))
        raise ConfigError(
            f"evaluation.benchmarks: {spec.name} asks a {TASK_TYPE_OF[spec.kind]} model, and task_type is {task_type}; "
            f"fitting: {fitting}."
        )
    for key in settings:
        if key not in spec.settings:
            near = difflib.get_close_matches(key, spec.settings, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(spec.settings) or "none"
            raise ConfigError(f"evaluation.benchmarks: {spec.name} has no setting {key!r}.{hint} It has: {known}.")
    if num_fewshot and task_type != "causal_lm":
        raise ConfigError(f"evaluation.benchmarks: {spec.name} compares labels: num_fewshot has no meaning there.")
    if spec.check is not None:
        spec.check(settings, generation)
