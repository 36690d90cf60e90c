"""GLUE's nine tasks and the generic benchmarks of labels."""

import numpy as np
import pytest
from sklearn import metrics as sk

from lora_ns.benchmarks import all_benchmarks, benchmark

EXPECTED = {
    "glue_cola": ("matthews_correlation",),
    "glue_sst2": ("accuracy",),
    "glue_mrpc": ("accuracy", "f1"),
    "glue_qqp": ("accuracy", "f1"),
    "glue_stsb": ("pearson", "spearman"),
    "glue_mnli": ("accuracy",),
    "glue_mnli_matched": ("accuracy",),
    "glue_mnli_mismatched": ("accuracy",),
    "glue_qnli": ("accuracy",),
    "glue_rte": ("accuracy",),
    "glue_wnli": ("accuracy",),
}


def test_all_nine_tasks_are_there_by_name_with_the_metrics_that_glue_names():
    found = {name: spec.metrics for name, spec in all_benchmarks().items() if name.startswith("glue_")}
    assert found == EXPECTED


@pytest.mark.parametrize("name", [*EXPECTED, "classification", "regression"])
def test_a_benchmark_gives_the_metrics_that_it_names(name):
    spec = benchmark(name)
    measured = spec.metrics_of_labels([0, 1, 1, 0], [0, 1, 0, 0])
    assert tuple(measured) == spec.metrics
    assert spec.main_metric == spec.metrics[0]
    assert all(isinstance(value, float) for value in measured.values())


def test_sts_b_is_the_one_regression():
    kinds = {name: spec.kind for name, spec in all_benchmarks().items() if name.startswith("glue_")}
    assert [name for name, kind in kinds.items() if kind == "regression"] == ["glue_stsb"]
    assert set(kinds.values()) == {"classification", "regression"}


def test_mrpc_equals_scikit_learn_on_random_predictions():
    predictions, references = np.random.default_rng(3).integers(0, 2, (2, 408)).tolist()
    assert benchmark("glue_mrpc").metrics_of_labels(predictions, references) == {
        "accuracy": pytest.approx(sk.accuracy_score(references, predictions)),
        "f1": pytest.approx(sk.f1_score(references, predictions)),
    }


def test_generic_classification_and_regression():
    assert benchmark("classification").metrics_of_labels([0, 1, 2, 2], [0, 1, 2, 1]) == {
        "accuracy": 0.75,
        "macro_f1": pytest.approx((1 + 2 / 3 + 2 / 3) / 3),
        "matthews_correlation": pytest.approx(sk.matthews_corrcoef([0, 1, 2, 1], [0, 1, 2, 2])),
    }
    assert benchmark("regression").metrics_of_labels([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == {
        "pearson": pytest.approx(1.0),
        "spearman": pytest.approx(1.0),
        "mean_squared_error": pytest.approx(14 / 3),
        "mean_absolute_error": pytest.approx(2.0),
    }
