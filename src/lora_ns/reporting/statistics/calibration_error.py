"""Calibration of a classifier: expected calibration error and its bins."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error, and per bin [B] the mean confidence and accuracy (NaN if empty) and example count."""

    error: float
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def calibration(probabilities: ArrayLike, reference: ArrayLike, bins: int = 10) -> Calibration:
    """Return the expected calibration error Σ_b (n_b/n) · |accuracy_b − confidence_b| over equal-width bins of the
    predicted class's probability (Guo et al. 2017, "On calibration of modern neural networks", eq. 3).

    probabilities: [n, C], rows summing to 1; reference: [n] the right classes, 0 … C − 1.
    """
    probabilities, reference = np.asarray(probabilities, dtype=float), np.asarray(reference).astype(int)
    if probabilities.ndim != 2 or probabilities.shape[0] != reference.size or reference.size == 0:
        raise ValueError(f"shapes {probabilities.shape} and {reference.shape} are no probabilities and labels")
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == reference).astype(float)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins are open below, closed above
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(place, confidence, bins) / count
        mean_accuracy = np.bincount(place, right, bins) / count
    gaps = np.nan_to_num(np.abs(mean_accuracy - mean_confidence))
    return Calibration(float((count * gaps).sum() / reference.size), mean_confidence, mean_accuracy, count)
