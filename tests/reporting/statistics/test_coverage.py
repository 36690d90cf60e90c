"""Do the intervals cover what they promise, and do the decisions keep to their error rates?  By simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lora_ns.reporting import statistics as st
from lora_ns.reporting.statistics import metrics

DRAWS = 2000


def draw_methods(rng, draws, seeds, examples, gap=0.0, seed_sd=0.1, interaction_sd=0.5, shared=0.3):
    """Right-or-wrong answers of two methods [draws, seeds, examples] twice, from one model of how they come about.

    An example is as hard for both (sd 1.5 on the logistic scale), harder for one of them (interaction), a seed is
    good or bad (seed_sd) for both in part (`shared`); gap is the first method's advantage.
    """
    difficulty = rng.normal(0, 1.5, (draws, 1, examples))
    common = rng.normal(size=(draws, seeds, 1))

    def answers(advantage):
        own = rng.normal(size=(draws, seeds, 1))
        seed = seed_sd * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
        taste = rng.normal(0, interaction_sd, (draws, 1, examples))
        return (rng.random((draws, seeds, examples)) < 1 / (1 + np.exp(-(difficulty + taste + seed + advantage)))) * 1.0

    return answers(gap), answers(0.0)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_t_interval_over_seeds_covers_95_percent(seeds):
    rng = np.random.default_rng(seeds)
    values = 0.6 + rng.normal(0, 0.02, (DRAWS, seeds))
    covered = [(i := st.t_interval(v)).low <= 0.6 <= i.high for v in values]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_wilson_interval_covers_95_percent_on_the_average_of_proportions():
    n = 200
    intervals = [st.wilson_interval(k, n) for k in range(n + 1)]
    low, high = np.array([i.low for i in intervals]), np.array([i.high for i in intervals])
    truths = np.linspace(0.05, 0.95, 91)
    coverage = [stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum() for p in truths]
    assert 0.94 <= np.mean(coverage) <= 0.96


def draw_answers(rng, draws, examples):
    """Classes and answers that are right in four of five: [draws, examples] twice."""
    reference = rng.random((draws, examples)) < 0.6
    return np.where(rng.random((draws, examples)) < 0.8, reference, ~reference), reference


def draw_numbers(rng, draws, examples):
    """Numbers and predictions that correlate by 0.6: [draws, examples] twice."""
    reference = rng.normal(size=(draws, examples))
    return 0.6 * reference + 0.8 * rng.normal(size=(draws, examples)), reference


@pytest.mark.parametrize(
    ("metric", "draw"),
    [
        (metrics.f1, draw_answers),
        (metrics.matthews, draw_answers),
        (metrics.pearson, draw_numbers),
        (metrics.spearman, draw_numbers),
    ],
)
def test_bca_interval_covers_95_percent(metric, draw):
    rng = np.random.default_rng(0)
    truth = metric(*(side[0] for side in draw(rng, 1, 1_000_000)))
    covered = [
        (i := st.bca_interval(metric, p, r, rng=rng, resamples=399)).low <= truth <= i.high
        for p, r in zip(*draw(rng, DRAWS, 100), strict=True)
    ]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("seed_sd", [0.1, 0.4])
def test_two_way_interval_covers_95_percent(seeds, seed_sd):
    rng = np.random.default_rng([seeds, int(10 * seed_sd)])
    covered = []
    for _ in range(10):
        a, b = draw_methods(rng, DRAWS // 10, seeds, 200, seed_sd=seed_sd)
        found = [st.two_way_difference(x, y) for x, y in zip(a, b, strict=True)]
        covered += [d.low <= 0 <= d.high for d in found]
    assert 0.92 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_difference_over_seeds_covers_95_percent(seeds):
    rng = np.random.default_rng([6, seeds])
    common = rng.normal(0, 0.03, (DRAWS, seeds))  # two methods of one seed share the order of the data
    a, b = (common + level + rng.normal(0, 0.02, (DRAWS, seeds)) for level in (0.65, 0.6))
    found = [st.seed_difference(x, y) for x, y in zip(a, b, strict=True)]
    assert 0.93 <= np.mean([d.low <= 0.05 <= d.high for d in found]) <= 0.97


def test_difference_over_examples_covers_95_percent_and_its_sign_flips_err_in_5_percent_at_most():
    rng = np.random.default_rng(7)
    a, b = draw_methods(rng, DRAWS, 1, 200, seed_sd=0.0)
    found = [st.example_difference(x[0], y[0], rng) for x, y in zip(a, b, strict=True)]
    assert 0.93 <= np.mean([d.low <= 0 <= d.high for d in found]) <= 0.97
    assert np.mean([d.p_value < 0.05 for d in found]) <= 0.06


def test_two_way_interval_of_f1_by_its_pseudo_values_covers_95_percent():
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(DRAWS):
        reference = (rng.random(150) < 0.6).astype(int)
        right = draw_methods(rng, 1, 3, 150)
        scores = [
            np.stack([st.pseudo_values(metrics.f1, np.where(seed > 0, reference, 1 - reference), reference) for seed in of[0]])
            for of in right
        ]
        found = st.two_way_difference(*scores)
        covered.append(found.low <= 0 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def suite(rng, draws, seeds, tasks=6):
    """Scores of three methods [draws, methods, seeds, tasks]: a method's strength, a task's ease, and luck."""
    strength, ease = np.array([0.0, 0.3, 0.8]), np.linspace(-1.5, 1.5, tasks)
    return strength[:, None, None] + ease + rng.normal(size=(draws, 3, seeds, tasks))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_interval_of_the_average_rank_covers_95_percent(seeds):
    rng = np.random.default_rng([5, seeds])
    truth = [r.estimate for r in st.average_ranks(suite(rng, 1, 200_000)[0])]
    found = [st.average_ranks(scores) for scores in suite(rng, DRAWS, seeds)]
    covered = [[r.low <= t <= r.high for r, t in zip(ranks, truth, strict=True)] for ranks in found]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_interquartile_mean_covers_95_percent(seeds):
    rng = np.random.default_rng([8, seeds])
    truth = st.interquartile_mean(suite(rng, 1, 200_000)[0, 0]).estimate
    found = [st.interquartile_mean(scores) for scores in suite(rng, DRAWS, seeds)[:, 0]]
    assert 0.93 <= np.mean([i.low <= truth <= i.high for i in found]) <= 0.97


def family_verdicts(rng, gaps, seeds=5, examples=200):
    """The verdict on each of several methods against one baseline, Holm over the family."""
    found = []
    for gap in gaps:
        a, b = draw_methods(rng, 1, seeds, examples, gap=gap)
        found.append(st.two_way_difference(a[0], b[0]))
    adjusted = st.holm([d.p_value for d in found])
    return [st.decide(d.difference, p) for d, p in zip(found, adjusted, strict=True)]


def test_equal_methods_are_said_to_show_no_difference():
    rng = np.random.default_rng(11)
    families = [family_verdicts(rng, gaps=[0.0, 0.0, 0.0, 0.0]) for _ in range(100)]
    unharmed = sum(all(v == "no difference shown" for v in family) for family in families)
    assert unharmed >= 95


def test_a_gap_of_twice_the_detectable_difference_is_found():
    rng = np.random.default_rng(12)
    a, b = draw_methods(rng, 200, 5, 200)
    detectable = np.median([st.two_way_difference(x, y).detectable for x, y in zip(a, b, strict=True)])
    # the gap on the logistic scale that gives twice that difference in accuracy
    gaps = np.linspace(0, 3, 61)
    differences = [np.subtract(*(m.mean() for m in draw_methods(rng, 20, 5, 2000, gap=g))) for g in gaps]
    gap = float(np.interp(2 * detectable, differences, gaps))
    found = sum(family_verdicts(rng, gaps=[gap, 0.0, 0.0, 0.0])[0] == "better" for _ in range(100))
    assert found >= 90
