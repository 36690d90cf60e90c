"""One figure for a method over several tasks, and the front between quality and cost."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lora_ns.reporting.statistics.intervals import Interval, t_interval


def interquartile_mean(scores: ArrayLike) -> Interval:
    """Mean of the middle half of a method's scores over tasks (Agarwal et al. 2021, "Deep reinforcement learning at
    the edge of the statistical precipice", §4.3), with Student's t interval over seeds.

    Each seed is one replication of the whole suite: its scores over the tasks are trimmed by a quarter on both sides
    and averaged, and the seeds' figures give the interval.  The paper's percentile bootstrap covers too little with
    the few seeds of fine-tuning.

    scores: [S, T], T ≥ 4 (with fewer nothing is trimmed).
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or scores.shape[1] < 4:
        raise ValueError(f"scores of seeds on four tasks or more are needed, not shape {scores.shape}")
    return t_interval(stats.trim_mean(scores, 0.25, axis=1))


def average_ranks(scores: ArrayLike) -> list[Interval]:
    """Mean rank of each method over tasks, 1 the best, ties sharing the mean of theirs (as in Friedman 1937, JASA 32;
    Demšar 2006, JMLR 7, §3.2), with Student's t interval over seeds.

    scores: [M, S, T], more is better.  One Interval a method.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 3:
        raise ValueError(f"scores of methods, seeds and tasks are needed, not shape {scores.shape}")
    by_seed = stats.rankdata(-scores, axis=0).mean(axis=2)
    return [t_interval(ranks) for ranks in by_seed]


def pareto_front(cost: ArrayLike, quality: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other one beats: none costs no more and is at least as good, with one of the two strictly.

    cost, quality: [N], NaN where not measured (never on the front).
    """
    cost, quality = np.asarray(cost, dtype=float), np.asarray(quality, dtype=float)
    no_worse = (cost[None, :] <= cost[:, None]) & (quality[None, :] >= quality[:, None])
    better = (cost[None, :] < cost[:, None]) | (quality[None, :] > quality[:, None])
    return ~(no_worse & better).any(axis=1) & ~np.isnan(cost) & ~np.isnan(quality)
