"""One score file: the metrics of one run on one benchmark, and its per-example values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PrivateAttr, ValidationError

from lora_ns.errors import DataError
from lora_ns.reporting.statistics import LABEL_METRICS, TOKEN_METRICS, pseudo_values
from lora_ns.reporting.statistics.metrics import Metric


class Examples(BaseModel):
    """Per-example results, in the order of `id`."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    id: list[str] = Field(default_factory=list)
    scores: dict[str, list[float | None]] = Field(default_factory=dict)
    prediction: list[float] | None = None
    reference: list[float] | None = None
    probabilities: list[list[float]] | None = None
    tokens: list[int] | None = None
    bytes: list[int] | None = None
    """tokens, bytes: counts of each row that was scored by log-likelihood."""


class Score(BaseModel):
    """The parts of a score file that the tables use."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    path: str
    """Path of the file, relative to the repository's root."""
    task: str
    task_type: str = "causal_lm"
    model: str
    method: str
    peft_method: str = ""
    seed: int
    run: str
    benchmark: str
    evaluation: str = ""
    main_metric: str
    metrics: dict[str, FiniteFloat | None]
    num_examples: int
    examples: Examples = Field(default_factory=Examples)
    cost: dict[str, float | None] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    code: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    trained: dict[str, Any] = Field(default_factory=dict)
    circumstances: dict[str, Any] = Field(default_factory=dict)
    unsafe_sandbox: bool = False

    _by_example: dict[str, NDArray[np.float64] | None] = PrivateAttr(default_factory=dict)

    @property
    def history(self) -> list[dict[str, float]]:
        """Training loss as [{step, loss}]; [] if the score holds none."""
        return self.trained.get("history") or []

    def asked_same_rows(self, other: Score) -> bool:
        """Whether an example id means the same example in both scores."""
        mine, others = ({"inputs": score.inputs, "config": score.config} for score in (self, other))
        return asked_same_rows(mine, others)

    @property
    def answered(self) -> dict[str, Any]:
        """How completions were generated: engine, batch_size, dtype, quantization, device; {} if not recorded."""
        return self.circumstances.get("answering") or {}

    @property
    def is_base(self) -> bool:
        """Whether this is the untrained base model, which is the same for every seed."""
        return (self.peft_method or self.method) == "none"

    def example_scores(self, metric: str) -> NDArray[np.float64] | None:
        """Return per-example scores [n] whose mean is the metric; None if the metric is no mean over examples."""
        scores, value = self.examples.scores.get(metric), self.metrics.get(metric)
        if scores:
            array = np.array([np.nan if s is None else s for s in scores], dtype=float)
            return array if value is not None and _same(array.mean(), value) else None
        if metric.endswith("accuracy") and self.label_metric(metric) is LABEL_METRICS["accuracy"]:
            return (np.array(self.examples.prediction) == np.array(self.examples.reference)).astype(float)
        return None

    def label_metric(self, metric: str) -> Metric | None:
        """Return the function of predictions and references that reproduces this metric's value, or None."""
        value, examples = self.metrics.get(metric), self.examples
        if value is None or not examples.prediction or not examples.reference:
            return None
        if len(examples.prediction) != len(examples.reference):
            return None
        # longest names first, so that macro_f1 is not taken for f1
        for name in sorted(LABEL_METRICS, key=len, reverse=True):
            of = LABEL_METRICS[name]
            if name in metric.lower() and _same(float(of(examples.prediction, examples.reference, axis=-1)), value):
                return of
        return None

    def resampled(self, metric: str) -> tuple[Metric, tuple[ArrayLike, ArrayLike]] | None:
        """Return (function, two arrays [n]) that reproduce a metric that is no mean over examples, or None."""
        of_labels, examples = self.label_metric(metric), self.examples
        if of_labels is not None:
            return of_labels, (examples.prediction or (), examples.reference or ())
        value, loss, tokens = self.metrics.get(metric), examples.scores.get("loss"), examples.tokens
        if metric not in TOKEN_METRICS or value is None or not loss or not tokens:
            return None
        of, sizes = TOKEN_METRICS[metric]
        divisor = tokens if sizes == "tokens" else examples.bytes
        if not divisor or not len(loss) == len(tokens) == len(divisor):
            return None
        # a row's loss is a mean over its tokens
        nats = np.array(loss, dtype=float) * np.array(tokens)
        return (of, (nats, divisor)) if _same(float(of(nats, divisor)), value) else None

    def example_values(self, metric: str) -> NDArray[np.float64] | None:
        """Return values [n] whose mean is the metric: per-example scores, else jackknife pseudo-values, else None."""
        if metric not in self._by_example:
            values, resampled = self.example_scores(metric), self.resampled(metric)
            if values is None and resampled is not None:
                of, (first, second) = resampled
                values = pseudo_values(of, first, second)
            self._by_example[metric] = values
        return self._by_example[metric]


def read_score(path: Path, root: Path) -> Score:
    """Read the score file at `path`; its printed path is relative to `root`.  Raises DataError if it is no score file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise DataError(f"{path} is no score file: it holds a {type(content).__name__}, not an object.")
        return Score(**{**content, "path": _relative(path, root)})
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The score file {path} cannot be read: {error}.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no score file: line {error.lineno} is not JSON ({error.msg}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is no score file: {place}: {first['msg']}.") from error


def _relative(path: Path, root: Path) -> str:
    path, root = path.resolve(), root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else f"{path.parent.name}/{path.name}"


def _same(found: float, stated: float) -> bool:
    return bool(np.isclose(found, stated, rtol=1e-6, atol=1e-9))


def asked_same_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two scores were evaluated on the same rows, so that example ids (which may be row numbers) are comparable.

    The checksums of the evaluated rows are compared; without them, the data artefact and the split.
    a, b: `inputs` and `config` of the score files.
    """
    first, second = (score.get("inputs", {}) for score in (a, b))
    if "asked" in first and "asked" in second:
        return first["asked"] == second["asked"]
    splits = [score.get("config", {}).get("split") for score in (a, b)]
    return first.get("rows") == second.get("rows") and splits[0] == splits[1]
