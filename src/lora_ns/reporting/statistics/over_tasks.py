"""Statistics of a method over several tasks, and the Pareto front between quality and cost."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lora_ns.reporting.statistics.intervals import Interval, t_interval


def interquartile_mean(scores: ArrayLike) -> Interval:
    """Return the interquartile mean of a method's scores over tasks (Agarwal et al. 2021, "Deep reinforcement learning
    at the edge of the statistical precipice", §4.3), with Student's t interval over seeds.

    Each seed is one replication of the whole suite.  Its scores over tasks are trimmed by a quarter on both sides and
    averaged; the interval is over these means.  The paper's percentile bootstrap covers too little with few seeds.

    scores: [S, T], T ≥ 4 (with fewer, nothing is trimmed).
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or scores.shape[1] < 4:
        raise ValueError(f"scores of seeds on four tasks or more are needed, not shape {scores.shape}")
    return t_interval(stats.trim_mean(scores, 0.25, axis=1))


def average_ranks(scores: ArrayLike) -> list[Interval]:
    """Return the mean rank of each method over tasks with Student's t interval over seeds, one Interval per method.

    Rank 1 is the best; ties share their mean rank (Friedman 1937, JASA 32; Demšar 2006, JMLR 7, §3.2).
    scores: [M, S, T], more is better.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 3:
        raise ValueError(f"scores of methods, seeds and tasks are needed, not shape {scores.shape}")
    by_seed = stats.rankdata(-scores, axis=0).mean(axis=2)
    return [t_interval(ranks) for ranks in by_seed]


def pareto_front(cost: ArrayLike, quality: ArrayLike) -> NDArray[np.bool_]:
    """Return which points are on the Pareto front: no other point is at least as good in both and better in one.

    cost, quality: [N]; a point with NaN (not measured) is never on the front.
    """
    cost, quality = np.asarray(cost, dtype=float), np.asarray(quality, dtype=float)
    no_worse = (cost[None, :] <= cost[:, None]) & (quality[None, :] >= quality[:, None])
    better = (cost[None, :] < cost[:, None]) | (quality[None, :] > quality[:, None])
    return ~(no_worse & better).any(axis=1) & ~np.isnan(cost) & ~np.isnan(quality)
