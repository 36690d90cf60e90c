"""Benchmarks for your own data that need no code, one for each scorer (exact match, a pattern, a number …).

    evaluation:
      benchmarks:
        - name: regex
          settings: {pattern: 'Answer: (\\w+)', reference_column: capital}

    row          {"country": "France", "capital": "Paris"}
    completion   "It is in the north.  Answer: Paris"
    verdict      parsed "Paris", regex 1.0

Settings: `reference_column`, the column with the right answer (default: the first of `answer`, `reference`, `target`,
`output`, `label` in the row); for `regex` also `pattern`, `which` (first or last match) and `ignore_case`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_ns.benchmarks import Benchmark, ExampleResult, Row
from lora_ns.benchmarks.scorers import SCORERS, Scorer, as_reference, scorer
from lora_ns.errors import DataError

Judge = Callable[[Sequence[Row], Sequence[Sequence[str]], Mapping[str, Any]], list[ExampleResult]]
"""(rows, completions, settings) -> one ExampleResult per row; completions[i] holds the samples of row i."""

_OPTIONS = {"regex": ("pattern", "which", "ignore_case")}
REFERENCE_COLUMNS = ("answer", "reference", "target", "output", "label")


def reference(row: Row, column: str | None = None) -> str:
    """Return the right answer of a row as text; a number by its digits, 18.0 as 18.  Raises DataError if there is none."""
    wanted = [column] if column else [name for name in REFERENCE_COLUMNS if name in row]
    if not wanted or wanted[0] not in row:
        expected = f"a column {column!r}" if column else f"one of the columns {', '.join(REFERENCE_COLUMNS)}"
        raise DataError(f"the benchmark needs {expected} as its reference; the row has {', '.join(map(str, row))}.")
    found = as_reference(row[wanted[0]])
    if found is None:
        raise DataError(
            f"a reference is text or a number, and a row's column {wanted[0]!r} holds {row[wanted[0]]!r}: give each row "
            "its right answer there, or name another column by settings.reference_column."
        )
    return found


def judge_by(names: Sequence[str], reference_of: Callable[[Row], str]) -> Judge:
    """Return a judge that applies the named scorers, the main one first, to every sample of a row.

    A row's score is the mean over its samples.  Its `parsed` is the main scorer's parse of the first sample.
    """

    def judge(rows: Sequence[Row], completions: Sequence[Sequence[str]], settings: Mapping[str, Any]) -> list[ExampleResult]:
        scorers = {name: scorer(name) for name in names}
        pairs = zip(rows, completions, strict=True)
        return [_verdict(scorers, samples, reference_of(row)) for row, samples in pairs]

    return judge


def _judge_by_settings(name: str) -> Judge:
    """Return a judge with one scorer. Its options and reference column come from the settings."""

    def judge(rows: Sequence[Row], completions: Sequence[Sequence[str]], settings: Mapping[str, Any]) -> list[ExampleResult]:
        options = {option: settings[option] for option in _OPTIONS.get(name, ()) if option in settings}
        scorers = {name: scorer(name, **options)}
        column = settings.get("reference_column")
        pairs = zip(rows, completions, strict=True)
        return [_verdict(scorers, samples, reference(row, column)) for row, samples in pairs]

    return judge


def _verdict(scorers: Mapping[str, Scorer], samples: Sequence[str], answer: str) -> ExampleResult:
    scored = {name: [score(sample, answer) for sample in samples] for name, score in scorers.items()}
    main = next(iter(scored.values()))
    return ExampleResult(
        parsed=main[0].parsed,
        scores={name: sum(one.correct for one in results) / len(results) for name, results in scored.items()},
        detail={"parsed": {name: [one.parsed for one in results] for name, results in scored.items()}},
    )


def _check_of(name: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], None]:
    """Return a check that creates the scorer with its options, which raises ConfigError for wrong ones."""

    def check(settings: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
        scorer(name, **{option: settings[option] for option in _OPTIONS.get(name, ()) if option in settings})

    return check


BENCHMARKS = [
    Benchmark(
        name=name,
        kind="generation",
        main_metric=name,
        metrics=(name,),
        protocol=2,
        reference=reference,
        judge=_judge_by_settings(name),
        settings=("reference_column", *_OPTIONS.get(name, ())),
        check=_check_of(name),
        generation={"max_new_tokens": 64},
    )
    for name in ("regex", *SCORERS)
]
