"""Score predictions against references: results of each row, and metrics over all rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.benchmarks import Benchmark, ExampleResult
from lora_ns.data.labels import label_of, number_of
from lora_ns.errors import EvaluationError
from lora_ns.evaluation.eval_set import EvalSet

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class EvalResult:
    """examples: columns (id, scores, …) of the score file.  lines: of the predictions file.  metrics: over all rows."""

    examples: dict[str, Any]
    lines: list[dict[str, Any]]
    metrics: dict[str, float]


def score_predictions(eval_set: EvalSet, answers: Sequence[Answer]) -> EvalResult:
    """Score all predictions.  Raises EvaluationError or SandboxError if they cannot be scored."""
    judges = {
        "generation": _judge_texts,
        "choice": _judge_choices,
        "perplexity": _judge_likelihoods,
        "classification": _judge_labels,
        "regression": _judge_labels,
    }
    outcome = judges[eval_set.spec.kind](eval_set, answers)
    bad = [name for name, value in outcome.metrics.items() if not math.isfinite(value)]
    if bad:
        raise EvaluationError(f"{eval_set.spec.name}: {', '.join(bad)} came to no number: the model computes no numbers.")
    return outcome


def _judge_texts(eval_set: EvalSet, answers: Sequence[Answer]) -> EvalResult:
    spec, evaluation = eval_set.spec, eval_set.evaluation
    assert spec.judge is not None
    completions = [answer["completions"] for answer in answers]
    verdicts = spec.judge(eval_set.rows, completions, {**evaluation.settings, "sandbox": evaluation.sandbox})
    return _outcome(eval_set, answers, verdicts, [eval_set.reference(row) for row in eval_set.rows])


def _judge_choices(eval_set: EvalSet, answers: Sequence[Answer]) -> EvalResult:
    """accuracy: by log-likelihood.  accuracy_norm: by log-likelihood per byte of the choice."""
    assert eval_set.spec.choices is not None
    references, verdicts = [], []
    for row, answer in zip(eval_set.rows, answers, strict=True):
        texts, right = eval_set.spec.choices(row, eval_set.evaluation.settings)
        sums = answer["log_likelihoods"]
        by_byte = [value / max(1, len(text.encode())) for value, text in zip(sums, texts, strict=True)]
        chosen, chosen_norm = _likeliest(sums), _likeliest(by_byte)
        scores = {"accuracy": float(chosen == right), "accuracy_norm": float(chosen_norm == right)}
        verdicts.append(ExampleResult(parsed=texts[chosen], scores=scores))
        references.append(texts[right])
    return _outcome(eval_set, answers, verdicts, references)


def _judge_likelihoods(eval_set: EvalSet, answers: Sequence[Answer]) -> EvalResult:
    """Mean over all tokens, not rows: a long row counts for more, as in training."""
    total = -sum(answer["log_likelihood"] for answer in answers)
    tokens, characters = sum(a["tokens"] for a in answers), sum(a["bytes"] for a in answers)
    loss = total / max(tokens, 1)
    verdicts = [ExampleResult(None, {"loss": -a["log_likelihood"] / max(a["tokens"], 1)}) for a in answers]
    outcome = _outcome(eval_set, answers, verdicts, [None] * len(answers))
    metrics = {"perplexity": math.exp(min(loss, 700.0)), "loss": loss, "bits_per_byte": total / math.log(2) / max(characters, 1)}
    # the metrics' divisors, so that the rows can be resampled
    sizes = {size: [int(a[size]) for a in answers] for size in ("tokens", "bytes")}
    return EvalResult({**outcome.examples, **sizes}, outcome.lines, metrics)


def _judge_labels(eval_set: EvalSet, answers: Sequence[Answer]) -> EvalResult:
    """Compare classes or numbers.  For classes the accuracy of each example is stored."""
    spec, data = eval_set.spec, eval_set.dataset
    assert spec.metrics_of_labels is not None
    examples: dict[str, Any] = {"id": eval_set.ids, "scores": {}}
    predictions: list[Any]
    references: list[Any]
    if spec.kind == "regression":
        references = [number_of(row, data, number) for number, row in enumerate(eval_set.rows)]
        predictions = [answer["prediction"] for answer in answers]
        errors = [(p - r) ** 2 for p, r in zip(predictions, references, strict=True)]
        examples["scores"] = {"squared_error": errors}
    else:
        references = [label_of(row, data, number) for number, row in enumerate(eval_set.rows)]
        predictions = [_likeliest(answer["probabilities"]) for answer in answers]
        examples["scores"] = {"accuracy": [float(p == r) for p, r in zip(predictions, references, strict=True)]}
        examples["probabilities"] = [answer["probabilities"] for answer in answers]
    examples |= {"prediction": predictions, "reference": references}
    lines = [
        {
            "id": eval_set.ids[i],
            **answer,
            "prediction": predictions[i],
            "reference": references[i],
            "scores": {name: values[i] for name, values in examples["scores"].items()},
        }
        for i, answer in enumerate(answers)
    ]
    return EvalResult(examples, lines, spec.metrics_of_labels(predictions, references))


def _likeliest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _outcome(
    eval_set: EvalSet, answers: Sequence[Answer], verdicts: Sequence[ExampleResult], references: Sequence[Any]
) -> EvalResult:
    lines = [
        {
            "id": identity,
            **answer,
            "parsed": verdict.parsed,
            "reference": reference,
            "scores": dict(verdict.scores),
            **({"detail": dict(verdict.detail)} if verdict.detail else {}),
        }
        for identity, answer, verdict, reference in zip(eval_set.ids, answers, verdicts, references, strict=True)
    ]
    return EvalResult({"id": eval_set.ids, "scores": _by_metric(verdicts)}, lines, _metrics(verdicts, eval_set.spec))


def _by_metric(verdicts: Sequence[ExampleResult]) -> dict[str, list[float]]:
    return {name: [verdict.scores[name] for verdict in verdicts] for name in verdicts[0].scores}


def _metrics(verdicts: Sequence[ExampleResult], spec: Benchmark) -> dict[str, float]:
    means = {name: sum(values) / len(values) for name, values in _by_metric(verdicts).items()}
    return means | (spec.aggregate(verdicts) if spec.aggregate else {})
