"""Confidence intervals of one quantity: over seeds, or over examples if there is only one seed."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits; low and high are NaN if the data give no interval."""

    estimate: float
    low: float
    high: float


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return Student's t interval of a mean over seeds.

    mean ± t(1 − α/2; S − 1) · s / √S, s the standard deviation with S − 1 in the denominator (Student 1908,
    "The probable error of a mean", Biometrika 6).  With three seeds its coverage is nominal; the percentile
    bootstrap and ±1.96 standard errors cover too little.

    values: [S].  NaN limits if S < 2.
    """
    values = _vector(values)
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, np.nan, np.nan)
    half = stats.t.ppf((1 + confidence) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return Interval(mean, float(mean - half), float(mean + half))


def wilson_interval(correct: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Return Wilson's score interval of a proportion, `correct` out of `total`.

    (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)  (Wilson 1927, "Probable inference, the law of succession,
    and statistical inference", JASA 22).  Unlike p̂ ± z·SE it is valid near 0 and 1.
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"{correct} correct of {total} is not a proportion")
    low, high = proportion_confint(correct, total, alpha=1 - confidence, method="wilson")
    return Interval(correct / total, float(low), float(high))


def bca_interval(
    metric: Callable[..., NDArray[np.float64]],
    *data: ArrayLike,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval over examples (Efron 1987, "Better bootstrap
    confidence intervals", JASA 82), by scipy.stats.bootstrap.

    metric: (*arrays, axis) -> the statistic along the axis, vectorised (see `metrics.py`).
    data: one or more arrays [n], resampled together so that a prediction stays with its reference.
    NaN limits if the data have no spread.
    """
    arrays = [_vector(values) for values in data]
    estimate = float(metric(*arrays, axis=-1))
    if arrays[0].size < 2:
        return Interval(estimate, np.nan, np.nan)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.bootstrap(
            arrays,
            metric,
            paired=len(arrays) > 1,
            vectorized=True,
            n_resamples=resamples,
            confidence_level=confidence,
            method="BCa",
            rng=rng,
            batch=max(1, 2_000_000 // arrays[0].size),
        )
    return Interval(estimate, float(result.confidence_interval.low), float(result.confidence_interval.high))


def example_standard_error(scores: ArrayLike) -> float:
    """Return the standard error of a mean over examples, s / √n: its spread over other test sets of that size.

    scores: [n] of one run, or [S, n] of S seeds on the same examples.  Seeds are averaged first because they add no
    examples.  Metrics that are no mean over examples need jackknife pseudo-values here.  NaN if n < 2.
    """
    scores = np.asarray(scores, dtype=float)
    per_example = scores.mean(axis=0) if scores.ndim == 2 else scores
    if per_example.size < 2:
        return float("nan")
    return float(per_example.std(ddof=1) / np.sqrt(per_example.size))


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"one value or more in one dimension is needed, not an array of shape {vector.shape}")
    return vector
