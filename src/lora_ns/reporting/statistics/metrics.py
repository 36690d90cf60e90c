"""Vectorised metrics along an axis, for the bootstrap and the jackknife, which evaluate them thousands of times.

prediction, reference: [..., n].  The values equal scikit-learn's and scipy's, which take one vector at a time.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Metric = Callable[..., NDArray[np.float64]]


def accuracy(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Share of examples with the right label."""
    return (np.asarray(prediction) == np.asarray(reference)).mean(axis=axis)


def f1(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """F1 of class 1: 2 TP / (2 TP + FP + FN); 0 if class 1 is neither predicted nor a reference."""
    predicted, true = np.asarray(prediction) == 1, np.asarray(reference) == 1
    hits = (predicted & true).sum(axis=axis)
    return _ratio(2.0 * hits, predicted.sum(axis=axis) + true.sum(axis=axis))


def macro_f1(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Unweighted mean F1 over the classes that occur in predictions or references."""
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    total, classes = np.zeros(()), np.zeros(())
    for label in np.union1d(prediction, reference):
        predicted, true = prediction == label, reference == label
        size = predicted.sum(axis=axis) + true.sum(axis=axis)
        total = total + _ratio(2.0 * (predicted & true).sum(axis=axis), size)
        classes = classes + (size > 0)
    return _ratio(total, classes)


def matthews(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Matthews correlation for any number of classes (Gorodkin 2004, "Comparing two K-category assignments by a
    K-category correlation coefficient"); 0 if either side has only one class."""
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    n = np.float64(reference.shape[axis])
    hits = (prediction == reference).sum(axis=axis).astype(float)
    joint = predicted_squares = true_squares = np.zeros(())
    for label in np.union1d(prediction, reference):
        predicted = (prediction == label).sum(axis=axis).astype(float)
        true = (reference == label).sum(axis=axis).astype(float)
        joint = joint + predicted * true
        predicted_squares = predicted_squares + predicted**2
        true_squares = true_squares + true**2
    return _ratio(hits * n - joint, np.sqrt((n**2 - predicted_squares) * (n**2 - true_squares)))


def pearson(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Pearson's correlation; 0 if either side is constant."""
    x, y = np.asarray(prediction, dtype=float), np.asarray(reference, dtype=float)
    x, y = x - x.mean(axis=axis, keepdims=True), y - y.mean(axis=axis, keepdims=True)
    return _ratio((x * y).sum(axis=axis), np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis)))


def spearman(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Spearman's correlation: Pearson's correlation of the ranks; ties share their mean rank."""
    return pearson(stats.rankdata(prediction, axis=axis), stats.rankdata(reference, axis=axis), axis=axis)


def mean_squared_error(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Mean of the squared differences."""
    return ((np.asarray(prediction, dtype=float) - np.asarray(reference, dtype=float)) ** 2).mean(axis=axis)


def mean_absolute_error(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Mean of the absolute differences."""
    return np.abs(np.asarray(prediction, dtype=float) - np.asarray(reference, dtype=float)).mean(axis=axis)


def loss_of_tokens(nats: ArrayLike, tokens: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Loss in nats per token over all tokens, so long rows count more.  nats: negative log-likelihood of each row."""
    return _ratio(np.asarray(nats, dtype=float).sum(axis=axis), np.asarray(tokens, dtype=float).sum(axis=axis))


def perplexity(nats: ArrayLike, tokens: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """The exponential of the loss."""
    return np.exp(np.minimum(loss_of_tokens(nats, tokens, axis), 700.0))


def bits_per_byte(nats: ArrayLike, num_bytes: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Bits per byte of the text, independent of the tokeniser."""
    return loss_of_tokens(nats, num_bytes, axis) / np.log(2)


def mean(values: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Mean of graded per-example scores, in the form of a metric."""
    return np.asarray(values, dtype=float).mean(axis=axis)


LABEL_METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
}
"""Label metrics by name."""

TOKEN_METRICS: dict[str, tuple[Metric, str]] = {
    "loss": (loss_of_tokens, "tokens"),
    "perplexity": (perplexity, "tokens"),
    "bits_per_byte": (bits_per_byte, "bytes"),
}
"""Likelihood metrics: name -> (function, row size that it divides by)."""


def pseudo_values(metric: Metric, prediction: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Return jackknife pseudo-values [n] of a metric θ: n·θ − (n − 1)·θ₋ᵢ (Tukey 1958; Efron & Tibshirani 1993, ch. 11).

    They replace per-example scores if the metric is no mean over examples.  Their standard error is the jackknife's
    standard error of θ, and differences between methods stay paired by example.  If the metric is a mean, they equal the
    per-example scores.  They are shifted to have the mean θ, without the jackknife's bias correction.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    n = reference.size
    # examples with equal prediction and reference have the same leave-one-out metric: compute it once
    _, first, kind = np.unique(np.stack([prediction, reference]), axis=1, return_index=True, return_inverse=True)
    without = np.array([metric(np.delete(prediction, i), np.delete(reference, i), axis=-1) for i in first])
    leave_one_out = without[kind.ravel()]
    return float(metric(prediction, reference, axis=-1)) - (n - 1) * (leave_one_out - leave_one_out.mean())


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator != 0)
