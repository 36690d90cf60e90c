"""Each statistic against scipy, statsmodels, scikit-learn or a closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from lora_ns.reporting import statistics as st
from lora_ns.reporting.statistics import metrics


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# --- intervals


def test_t_interval_is_scipys():
    values = [0.61, 0.64, 0.58, 0.66, 0.60]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = st.t_interval(values)
    assert (found.estimate, found.low, found.high) == pytest.approx((np.mean(values), expected.low, expected.high))


def test_one_seed_has_no_t_interval():
    found = st.t_interval([0.5])
    assert found.estimate == 0.5
    assert np.isnan(found.low) and np.isnan(found.high)


def test_wilson_interval_is_wilsons_formula():
    correct, n, z = 7, 20, stats.norm.ppf(0.975)
    p = correct / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = st.wilson_interval(correct, n)
    assert (found.estimate, found.low, found.high) == pytest.approx((p, centre - half, centre + half))


def test_wilson_interval_has_width_where_every_answer_is_right():
    found = st.wilson_interval(20, 20)
    assert found.high == pytest.approx(1.0)
    assert 0.8 < found.low < 0.9


def test_bca_interval_of_a_mean_is_scipys_with_the_same_generator():
    values = np.random.default_rng(1).exponential(size=80)
    expected = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(3)).confidence_interval
    found = st.bca_interval(st.mean, values, rng=np.random.default_rng(3))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_bca_interval_depends_on_its_generator_alone(rng):
    prediction, reference = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    first, again, other = (
        st.bca_interval(metrics.f1, prediction, reference, rng=np.random.default_rng(seed), resamples=999) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_bca_interval_without_spread_has_no_limits():
    found = st.bca_interval(metrics.f1, np.ones(30), np.ones(30), rng=np.random.default_rng(0), resamples=99)
    assert found.estimate == 1.0
    assert np.isnan(found.low) and np.isnan(found.high)


def test_example_standard_error_is_scipys_and_seeds_add_no_examples(rng):
    scores = rng.integers(0, 2, 300).astype(float)
    assert st.example_standard_error(scores) == pytest.approx(stats.sem(scores))
    assert st.example_standard_error(np.tile(scores, (5, 1))) == pytest.approx(stats.sem(scores))


# --- metrics of labels


@pytest.mark.parametrize(
    ("name", "reference_metric"),
    [
        ("accuracy", sklearn_metrics.accuracy_score),
        ("f1", sklearn_metrics.f1_score),
        ("matthews", sklearn_metrics.matthews_corrcoef),
    ],
)
def test_binary_metrics_are_scikit_learns_along_any_axis(rng, name, reference_metric):
    prediction, reference = rng.integers(0, 2, (4, 50)), rng.integers(0, 2, (4, 50))
    expected = [reference_metric(r, p) for p, r in zip(prediction, reference, strict=True)]
    assert st.LABEL_METRICS[name](prediction, reference, axis=-1) == pytest.approx(expected)
    assert st.LABEL_METRICS[name](prediction.T, reference.T, axis=0) == pytest.approx(expected)


def test_metrics_of_several_classes_are_scikit_learns(rng):
    prediction, reference = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    assert metrics.matthews(prediction, reference) == pytest.approx(sklearn_metrics.matthews_corrcoef(reference, prediction))
    assert metrics.macro_f1(prediction, reference) == pytest.approx(
        sklearn_metrics.f1_score(reference, prediction, average="macro")
    )


def test_correlations_are_scipys_with_ties(rng):
    prediction, reference = rng.normal(size=(3, 40)), rng.integers(0, 6, (3, 40)).astype(float)
    for ours, theirs in ((metrics.pearson, stats.pearsonr), (metrics.spearman, stats.spearmanr)):
        expected = [theirs(p, r).statistic for p, r in zip(prediction, reference, strict=True)]
        assert ours(prediction, reference) == pytest.approx(expected)


def test_metrics_of_one_class_are_zero_not_nan():
    assert metrics.f1(np.zeros(5), np.zeros(5)) == 0
    assert metrics.matthews(np.ones(5), np.ones(5)) == 0


def test_pseudo_values_of_a_mean_are_the_examples_scores(rng):
    prediction, reference = rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    assert st.pseudo_values(metrics.accuracy, prediction, reference) == pytest.approx((prediction == reference).astype(float))


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_pseudo_values_are_the_jackknife_done_example_by_example(rng, name):
    metric = st.LABEL_METRICS[name]
    prediction, reference = rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    if name in ("pearson", "spearman"):
        prediction, reference = rng.normal(size=40), rng.normal(size=40)
    left_out = [float(metric(np.delete(prediction, i), np.delete(reference, i))) for i in range(40)]
    jackknife_error = np.sqrt(39 / 40 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    values = st.pseudo_values(metric, prediction, reference)
    assert values.mean() == pytest.approx(float(metric(prediction, reference)))
    assert st.example_standard_error(values) == pytest.approx(jackknife_error)


# --- differences


def test_two_way_difference_has_the_mean_squares_of_statsmodels(rng):
    d = rng.normal(size=(4, 1)) + rng.normal(size=(1, 12)) + rng.normal(size=(4, 12)) + 0.3
    long = pd.DataFrame([(s, e, d[s, e]) for s, e in itertools.product(range(4), range(12))], columns=["seed", "example", "d"])
    table = anova_lm(ols("d ~ C(seed) + C(example)", data=long).fit())
    ms_seed, ms_example, ms_rest = table["mean_sq"]
    total = ms_seed + ms_example - ms_rest
    df = total**2 / (ms_seed**2 / 3 + ms_example**2 / 11 + ms_rest**2 / 33)
    found = st.two_way_difference(d, np.zeros_like(d))
    assert found.difference == pytest.approx(d.mean())
    assert found.standard_error == pytest.approx(np.sqrt(total / 48))
    assert found.df == pytest.approx(df)
    half = stats.t.ppf(0.975, df) * found.standard_error
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))


def test_two_way_difference_keeps_an_interval_where_seeds_and_examples_balance_by_luck():
    # rows and columns of a Latin square have equal means: both mean squares are zero
    d = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]])
    found = st.two_way_difference(d, np.zeros_like(d))
    assert found.standard_error == pytest.approx(np.sqrt(d.var() * 9 / 4 / 2 / 9))
    assert found.low < 2 < found.high


def test_methods_with_equal_answers_do_not_differ(rng):
    scores = rng.integers(0, 2, (3, 50))
    found = st.two_way_difference(scores, scores)
    assert (found.difference, found.p_value) == (0, 1)
    assert np.isnan([found.low, found.high, found.detectable]).all(), "nothing varies: no claim to have seen all"
    assert st.decide(found.difference, found.p_value) == "no difference shown"


def test_a_difference_that_never_varies_is_judged_by_how_many_examples_agree():
    found = st.two_way_difference(np.ones((3, 10)), np.zeros((3, 10)))
    assert found.difference == 1
    assert found.p_value == pytest.approx(2**-9)
    assert np.isnan([found.low, found.high, found.detectable]).all()


def test_metrics_of_tokens_weigh_rows_by_their_sizes():
    nats, tokens, num_bytes = np.array([2.0, 9.0]), np.array([1, 3]), np.array([4, 7])
    assert metrics.loss_of_tokens(nats, tokens) == pytest.approx(11 / 4)
    assert metrics.perplexity(nats, tokens) == pytest.approx(np.exp(11 / 4))
    assert metrics.bits_per_byte(nats, num_bytes) == pytest.approx(11 / np.log(2) / 11)


def test_seed_difference_is_scipys_paired_t(rng):
    a, b = rng.normal(size=5), rng.normal(size=5)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval()
    found = st.seed_difference(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_sign_flip_of_right_and_wrong_is_the_exact_mcnemar_test(rng):
    a, b = rng.integers(0, 2, 80), (rng.random(80) < 0.65).astype(int)
    table = [[((a == i) & (b == j)).sum() for j in (1, 0)] for i in (1, 0)]
    assert st.sign_flip_test(a - b, rng) == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_sign_flip_of_few_graded_differences_tries_every_flip(rng):
    d = np.array([0.3, -0.1, 0.7, 0.45, 0.2, 0.9])
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=6)]
    expected = np.mean([total >= abs(d.sum()) - 1e-12 for total in sums])
    assert st.sign_flip_test(d, rng) == pytest.approx(expected)


def test_sign_flip_of_many_differences_uses_its_generator():
    d = np.random.default_rng(3).normal(0.1, 1, 200)
    first, again, other = (st.sign_flip_test(d, np.random.default_rng(seed), resamples=499) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.06)


def test_example_difference_has_a_t_interval_and_the_sign_flips_p(rng):
    a, b = rng.integers(0, 2, 90), rng.integers(0, 2, 90)
    expected = stats.ttest_rel(a, b).confidence_interval()
    found = st.example_difference(a, b, rng)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.p_value == st.sign_flip_test(a - b, rng)


def test_holm_steps_down_by_hand_and_passes_over_tests_not_made():
    # 0.01·3, then max(0.03, 0.02·2), then max(0.04, 0.9·1)
    assert st.holm([0.02, np.nan, 0.9, 0.01]) == pytest.approx([0.04, np.nan, 0.9, 0.03], nan_ok=True)


def test_holm_is_statsmodels(rng):
    p_values = rng.random(20) ** 3
    assert st.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("df", [2, 4.5, 9, 200])
def test_detectable_difference_has_the_promised_power_by_statsmodels(df):
    error = 0.017
    delta = st.detectable_difference(error, df)
    nobs = df + 1
    power = TTestPower().power(delta / error / np.sqrt(nobs), nobs=nobs, alpha=0.05, df=df)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_decide_needs_a_small_p_and_names_the_direction():
    assert st.decide(0.1, 0.01) == "better"
    assert st.decide(-0.1, 0.01) == "worse"
    assert st.decide(0.1, 0.05) == "no difference shown"
    assert st.decide(0.1, np.nan) == "no difference shown"


def test_pairs_of_unequal_shape_are_refused():
    with pytest.raises(ValueError, match="pairs are needed"):
        st.two_way_difference(np.zeros((3, 4)), np.zeros((3, 5)))


# --- over tasks, front, calibration


def test_interquartile_mean_is_scipys_trimmed_mean_of_each_seed(rng):
    scores = rng.random((3, 8))
    by_seed = [np.sort(row)[2:6].mean() for row in scores]
    assert st.interquartile_mean(scores) == st.t_interval(by_seed)


def test_average_ranks_by_hand():
    scores = np.array([[[0.9, 0.5], [0.9, 0.5]], [[0.8, 0.5], [0.7, 0.6]], [[0.1, 0.1], [0.2, 0.1]]])
    ranks = [r.estimate for r in st.average_ranks(scores)]
    # seed 0: 1 and a shared 1.5; seed 1: 1 and 2 …
    assert ranks == pytest.approx([(1.25 + 1.5) / 2, (1.75 + 1.5) / 2, 3.0])


def test_pareto_front_by_hand():
    cost, quality = [1, 2, 2, 3, 4, np.nan], [0.5, 0.7, 0.6, 0.7, 0.9, 1.0]
    assert st.pareto_front(cost, quality).tolist() == [True, True, False, False, True, False]


def test_equal_points_share_the_front():
    assert st.pareto_front([1, 1], [0.5, 0.5]).tolist() == [True, True]


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    found = st.calibration(probabilities, [0, 1, 1, 1], bins=10)
    # half of the confident ones are right (gap .45), all of the others (gap .35)
    assert found.error == pytest.approx((2 * 0.45 + 2 * 0.35) / 4)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]


def test_probabilities_that_hold_what_they_promise_have_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 200_000)
    reference = (rng.random(p.size) >= p).astype(int)
    assert st.calibration(np.stack([p, 1 - p], axis=1), reference).error < 0.005
