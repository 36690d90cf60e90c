"""Metrics for predicted labels and values, computed by scikit-learn and scipy.

    references  [1, 1, 0, 1]
    predictions [1, 0, 0, 1]   accuracy 0.75, f1 0.8, matthews_correlation 0.577

A metric whose formula divides by zero is 0.0, without a warning. Examples are a correlation with a constant, and the F1
of a class that is neither predicted nor true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.errors import EvaluationError

if TYPE_CHECKING:
    import numpy as np

Metric = Callable[[Sequence[Any], Sequence[Any]], float]
"""(predictions, references), both [N] -> a number.  Raises EvaluationError if lengths differ or values are not finite."""


def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """The share of predictions that equal their reference."""
    predicted, true = _labels(predictions, references)
    return float((predicted == true).mean())


def f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """F1 of the positive class, label 1 (GLUE's MRPC and QQP)."""
    from sklearn.metrics import f1_score  # imported here, since scikit-learn and scipy take a second to load

    predicted, true = _labels(predictions, references)
    return float(f1_score(true == 1, predicted == 1, zero_division=0))


def macro_f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """The plain mean of the F1 of every class that is predicted or true."""
    from sklearn.metrics import f1_score

    predicted, true = _labels(predictions, references)
    return float(f1_score(true, predicted, average="macro", zero_division=0))


def matthews_correlation(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Matthews' correlation, for any number of classes; 0.0 where either side is constant."""
    from sklearn.metrics import matthews_corrcoef

    predicted, true = _labels(predictions, references)
    if len(set(predicted)) == 1 or len(set(true)) == 1:
        return 0.0
    return float(matthews_corrcoef(true, predicted))


def pearson(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Pearson's r; 0.0 where either side is constant or holds one value only."""
    from scipy.stats import pearsonr

    predicted, true = _values(predictions, references)
    return 0.0 if _constant(predicted) or _constant(true) else float(pearsonr(predicted, true).statistic)


def spearman(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Spearman's rank correlation, ties by their mean rank; 0.0 where either side is constant."""
    from scipy.stats import spearmanr

    predicted, true = _values(predictions, references)
    return 0.0 if _constant(predicted) or _constant(true) else float(spearmanr(predicted, true).statistic)


def mean_squared_error(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """The mean of the squared differences, in squared units of the target."""
    predicted, true = _values(predictions, references)
    return float(((predicted - true) ** 2).mean())


def mean_absolute_error(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """The mean of the absolute differences, in units of the target."""
    predicted, true = _values(predictions, references)
    return float(abs(predicted - true).mean())


def _labels(predictions: Sequence[Any], references: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np  # imported here, since it takes a sixth of a second and looking up metrics does not need it

    _check_lengths(predictions, references)
    return np.asarray(predictions), np.asarray(references)


def _values(predictions: Sequence[Any], references: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    _check_lengths(predictions, references)
    predicted, true = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise EvaluationError("a predicted or true value is not a finite number.")
    return predicted, true


def _check_lengths(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if len(predictions) != len(references):
        raise EvaluationError(f"{len(predictions)} predictions cannot be compared with {len(references)} references.")
    if len(predictions) == 0:
        raise EvaluationError("there are no predictions to score.")


def _constant(values: np.ndarray) -> bool:
    return len(values) < 2 or bool((values == values[0]).all())
