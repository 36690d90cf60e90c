"""What a metric's name says of how to print it: which way is better, in per cent or as it is, within which bounds."""

import math

_LOWER_IS_BETTER = ("loss", "perplexity", "error", "bits_per")
_SIGNED = ("matthews", "pearson", "spearman", "corr")


def lower_is_better(metric: str) -> bool:
    """Whether lower values are better: losses, perplexities, errors and bits per byte."""
    return any(part in metric.lower() for part in _LOWER_IS_BETTER)


def print_factor(metric: str) -> float:
    """100 for fractions and correlations, which are printed as percentages; 1 for losses and perplexities."""
    return 1.0 if lower_is_better(metric) else 100.0


def decimals(metric: str) -> int:
    """Return the number of decimal places."""
    return 3 if lower_is_better(metric) else 1


def bounds(metric: str) -> tuple[float, float]:
    """Return the (lowest, highest) possible value of the metric, for clipping confidence intervals."""
    if lower_is_better(metric):
        return 0.0, math.inf
    return (-1.0, 1.0) if any(part in metric.lower() for part in _SIGNED) else (0.0, 1.0)


def heading(metric: str) -> str:
    """Return the metric's name with its unit, or with "lower is better"."""
    return f"{metric} (lower is better)" if lower_is_better(metric) else f"{metric} (%)"
