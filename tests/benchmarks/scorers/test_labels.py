"""GLUE's metrics against scikit-learn, scipy and their definitions."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from lora_ns.benchmarks.scorers.glue_metrics import GLUE_METRICS, glue_metrics
from lora_ns.benchmarks.scorers.labels import (
    accuracy,
    f1,
    macro_f1,
    matthews_correlation,
    mean_absolute_error,
    mean_squared_error,
    pearson,
    spearman,
)
from lora_ns.errors import ConfigError, EvaluationError

EXPECTED = {
    "cola": {"matthews_correlation": lambda p, r: sk.matthews_corrcoef(r, p)},
    "stsb": {"pearson": lambda p, r: stats.pearsonr(p, r).statistic, "spearman": lambda p, r: stats.spearmanr(p, r).statistic},
    "mrpc": {"accuracy": lambda p, r: sk.accuracy_score(r, p), "f1": lambda p, r: sk.f1_score(r, p)},
    "qqp": {"accuracy": lambda p, r: sk.accuracy_score(r, p), "f1": lambda p, r: sk.f1_score(r, p)},
    **{
        task: {"accuracy": lambda p, r: sk.accuracy_score(r, p)}
        for task in ("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli")
    },
}


@pytest.mark.parametrize("task", GLUE_METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_and_scipy_on_random_predictions(task, seed):
    rng = np.random.default_rng(seed)
    if task == "stsb":
        predictions, references = rng.normal(2.5, 1.0, 300), rng.integers(0, 26, 300) / 5
    else:
        predictions, references = rng.integers(0, 3 if "mnli" in task else 2, (2, 300))
    measured = glue_metrics(task, predictions.tolist(), references.tolist())
    assert measured.keys() == EXPECTED[task].keys()
    for name, of in EXPECTED[task].items():
        assert measured[name] == pytest.approx(of(predictions, references), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_generic_metrics_equal_scikit_learn_on_random_predictions(seed):
    rng = np.random.default_rng(seed)
    predictions, references = rng.integers(0, 5, (2, 200))
    assert macro_f1(predictions, references) == pytest.approx(sk.f1_score(references, predictions, average="macro"))
    assert matthews_correlation(predictions, references) == pytest.approx(sk.matthews_corrcoef(references, predictions))
    guessed, true = rng.normal(size=(2, 200))
    assert mean_squared_error(guessed, true) == pytest.approx(sk.mean_squared_error(true, guessed))
    assert mean_absolute_error(guessed, true) == pytest.approx(sk.mean_absolute_error(true, guessed))


def test_worked_by_hand():
    predictions, references = [1, 0, 0, 1], [1, 1, 0, 1]
    assert accuracy(predictions, references) == 0.75
    assert f1(predictions, references) == pytest.approx(0.8)  # 2 found of 3, none wrong: 2·1·(2/3)/(1 + 2/3)
    assert matthews_correlation(predictions, references) == pytest.approx(2 / np.sqrt(2 * 3 * 1 * 2))


def test_f1_is_that_of_label_1():
    assert f1([1, 1, 0], [1, 0, 0]) == pytest.approx(2 / 3)
    assert f1([0, 0, 1], [0, 1, 1]) == pytest.approx(2 / 3)
    assert f1([0, 0, 0, 1], [0, 0, 1, 1]) != f1([1, 1, 1, 0], [1, 1, 0, 0])


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_have_a_defined_value_and_no_warning(constant):
    predictions, references = [constant] * 4, [0, 1, 1, 0]
    assert matthews_correlation(predictions, references) == 0.0
    assert accuracy(predictions, references) == 0.5
    assert f1(predictions, references) == pytest.approx(2 / 3 if constant else 0.0)
    assert pearson(predictions, references) == 0.0
    assert spearman(predictions, references) == 0.0
    assert matthews_correlation(references, predictions) == 0.0


def test_a_class_that_neither_side_has_leaves_f1_zero():
    assert f1([0, 0], [0, 0]) == 0.0
    assert accuracy([0, 0], [0, 0]) == 1.0


def test_labels_may_be_text():
    assert accuracy(["yes", "no"], ["yes", "yes"]) == 0.5
    assert macro_f1(["yes", "no"], ["yes", "no"]) == 1.0


@pytest.mark.parametrize("metric", [accuracy, f1, macro_f1, matthews_correlation, pearson, spearman])
def test_what_cannot_be_compared_raises(metric):
    with pytest.raises(EvaluationError, match="2 predictions cannot be compared with 1"):
        metric([1, 0], [1])
    with pytest.raises(EvaluationError, match="no predictions"):
        metric([], [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_raises_instead_of_spreading(value):
    for metric in (pearson, spearman, mean_squared_error, mean_absolute_error):
        with pytest.raises(EvaluationError, match="not a finite number"):
            metric([value, 1.0], [0.0, 1.0])


def test_an_unknown_task_is_the_users_mistake():
    with pytest.raises(ConfigError, match="no GLUE task 'mrcp'"):
        glue_metrics("mrcp", [1], [1])
