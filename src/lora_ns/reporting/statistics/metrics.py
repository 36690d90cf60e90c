"""Metrics of labels along an axis, for the bootstrap and the jackknife, which need them thousands of times.

prediction, reference: [..., n].  The same values as scikit-learn's and scipy's, which take one vector at a time.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Metric = Callable[..., NDArray[np.float64]]


def accuracy(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Share of examples whose label is right."""
    return (np.asarray(prediction) == np.asarray(reference)).mean(axis=axis)


def f1(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """F1 of class 1: 2 TP / (2 TP + FP + FN); 0 where there is neither a prediction nor a reference of class 1."""
    predicted, true = np.asarray(prediction) == 1, np.asarray(reference) == 1
    hits = (predicted & true).sum(axis=axis)
    return _ratio(2.0 * hits, predicted.sum(axis=axis) + true.sum(axis=axis))


def macro_f1(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """F1 of each class that occurs in either, averaged without weights."""
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
    K-category correlation coefficient"); 0 where either side has one class only."""
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
    """Pearson's correlation; 0 where either side is constant."""
    x, y = np.asarray(prediction, dtype=float), np.asarray(reference, dtype=float)
    x, y = x - x.mean(axis=axis, keepdims=True), y - y.mean(axis=axis, keepdims=True)
    return _ratio((x * y).sum(axis=axis), np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis)))


def spearman(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Spearman's correlation: Pearson's of the ranks, ties sharing the mean of theirs."""
    return pearson(stats.rankdata(prediction, axis=axis), stats.rankdata(reference, axis=axis), axis=axis)


def mean_squared_error(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Mean of the squared differences."""
    return ((np.asarray(prediction, dtype=float) - np.asarray(reference, dtype=float)) ** 2).mean(axis=axis)


def mean_absolute_error(prediction: ArrayLike, reference: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Mean of the absolute differences."""
    return np.abs(np.asarray(prediction, dtype=float) - np.asarray(reference, dtype=float)).mean(axis=axis)


def loss_of_tokens(nats: ArrayLike, tokens: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Nats a token over all tokens: a long row counts for more.  nats: minus each row's log-likelihood."""
    return _ratio(np.asarray(nats, dtype=float).sum(axis=axis), np.asarray(tokens, dtype=float).sum(axis=axis))


def perplexity(nats: ArrayLike, tokens: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """The exponential of the loss."""
    return np.exp(np.minimum(loss_of_tokens(nats, tokens, axis), 700.0))


def bits_per_byte(nats: ArrayLike, num_bytes: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Bits a byte of the text, independent of the tokenizer."""
    return loss_of_tokens(nats, num_bytes, axis) / np.log(2)


def mean(values: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """The mean of graded scores, named so that it can be given as a metric."""
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
"""The metrics of labels by name."""

TOKEN_METRICS: dict[str, tuple[Metric, str]] = {
    "loss": (loss_of_tokens, "tokens"),
    "perplexity": (perplexity, "tokens"),
    "bits_per_byte": (bits_per_byte, "bytes"),
}
"""The metrics of likelihoods by name -> (function, the rows' sizes that it divides by)."""


def pseudo_values(metric: Metric, prediction: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Jackknife pseudo-values [n] of a metric of two arrays [n]: n·θ − (n − 1)·θ₋ᵢ (Tukey 1958; Efron & Tibshirani 1993, ch. 11).

    They stand in for the scores of single examples where the metric is no mean over examples: their standard error
    is the jackknife's of θ, and differences between methods on the same examples stay paired.  For a metric that is
    a mean they are the scores themselves.  They are shifted so that their mean is θ, without the jackknife's
    correction of its bias.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    n = reference.size
    # leaving out either of two examples with equal labels leaves the same metric
    _, first, kind = np.unique(np.stack([prediction, reference]), axis=1, return_index=True, return_inverse=True)
    without = np.array([metric(np.delete(prediction, i), np.delete(reference, i), axis=-1) for i in first])
    leave_one_out = without[kind.ravel()]
    return float(metric(prediction, reference, axis=-1)) - (n - 1) * (leave_one_out - leave_one_out.mean())


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator != 0)
