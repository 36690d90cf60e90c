"""The main table: its numbers, what is marked, and what is said below."""

from __future__ import annotations

import numpy as np
import pytest
from demo_tables import EXPERIMENT, METHODS, main_row, read, tables_of
from scipy import stats
from synthetic_scores import classification_score, demo_scores, generation_score

from lora_ns.reporting import statistics as st


def test_mean_and_interval_over_seeds_are_students(demo):
    row = main_row(demo, "lora", "gsm8k_flexible")
    values = [s["metrics"]["gsm8k_flexible"] for s in demo_scores() if (s["task"], s["method"]) == ("word_problems", "lora")]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (row["mean"], row.low, row.high) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert (row.interval, row.num_seeds, row.num_examples) == ("t over seeds", 3, 200)


def test_fractions_are_printed_as_percentages_and_losses_as_they_are(tmp_path):
    scores = [generation_score(method=m, seed=s) for m in ("lora", "full") for s in (0, 1)]
    for score in scores:
        score["metrics"] = {"gsm8k_flexible": 0.5 + score["seed"] / 100, "eval_loss": 1.25 + score["seed"] / 1000}
    text = read(tables_of(tmp_path, scores), "main.md")
    assert "50.5" in text and "1.250" in text
    assert "125" not in text


def test_two_metrics_are_shown_where_they_differ_and_the_others_are_in_the_csv(tmp_path):
    scores = [generation_score(method=m, seed=s) for m in ("lora", "full") for s in (0, 1)]
    for score in scores:
        main = score["metrics"]["gsm8k_flexible"]
        score["metrics"] = {"gsm8k_flexible": main, "same": main, "gsm8k_strict": main / 2, "metamath": main / 3}
    result = tables_of(tmp_path, scores)
    text = read(result, "main.md")
    header = next(line for line in text.splitlines() if line.startswith("| Method"))
    assert "gsm8k_flexible (%)" in header and "gsm8k_strict (%)" in header
    assert "same" not in header and "metamath" not in header
    assert "In main.csv only: same, metamath." in text
    assert set(result.frames["main"].metric) == {"gsm8k_flexible", "same", "gsm8k_strict", "metamath"}


def test_methods_and_tasks_come_in_the_experiments_order(demo):
    frame = demo.frames["main"]
    assert list(dict.fromkeys(frame.task)) == EXPERIMENT["tasks"]
    assert list(dict.fromkeys(frame.method)) == METHODS


def test_one_seed_has_a_wilson_interval_and_the_table_says_so(tmp_path):
    scores = [generation_score(method=m) for m in ("lora", "full")]
    result = tables_of(tmp_path, scores)
    row = main_row(result, "lora", "gsm8k_flexible")
    right = sum(scores[0]["examples"]["scores"]["gsm8k_flexible"])
    expected = st.wilson_interval(right, 200)
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))
    for name in ("main.md", "main.tex"):
        assert "Wilson interval over the test examples" in read(result, name)


def test_one_seed_of_f1_has_a_bca_interval_and_the_table_says_so(tmp_path):
    result = tables_of(tmp_path, [classification_score(method=m) for m in ("lora", "full")])
    row = main_row(result, "lora", "mrpc_f1", "paraphrase")
    assert row.interval == "BCa over examples"
    assert row.low < row["mean"] < row.high
    assert "BCa bootstrap interval" in read(result, "main.md")


def test_seeds_that_all_agree_get_an_interval_over_examples_not_one_of_no_width(demo):
    row = main_row(demo, "none", "gsm8k_flexible")
    assert row.sd == 0
    assert row.interval == "Wilson over examples"
    assert row.high - row.low > 0.05


def test_a_metric_without_variance_and_without_examples_has_a_dash_for_its_interval(tmp_path):
    scores = [generation_score(method=m, seed=s) for m in ("lora", "full") for s in (0, 1, 2)]
    for score in scores:
        score["metrics"] = {"gsm8k_flexible": 0.5}
        del score["examples"]
    result = tables_of(tmp_path, scores)
    assert np.isnan(main_row(result, "lora", "gsm8k_flexible").low)
    assert "nan" not in read(result, "main.md").lower()
    assert set(result.frames["comparison"].verdict) <= {"no difference shown", "not compared"}


def test_intervals_end_where_the_metric_ends(tmp_path):
    scores = [generation_score(method="lora", seed=s) for s in (0, 1)]
    for score, value in zip(scores, (0.9, 1.0), strict=True):
        score["metrics"] = {"gsm8k_flexible": value}
        del score["examples"]
    assert main_row(tables_of(tmp_path, scores), "lora", "gsm8k_flexible").high == 1.0


def test_example_standard_error_of_f1_is_the_jackknifes(demo):
    scores = [s for s in demo_scores() if (s["task"], s["method"]) == ("paraphrase", "lora")]
    values = [st.pseudo_values(st.LABEL_METRICS["f1"], s["examples"]["prediction"], s["examples"]["reference"]) for s in scores]
    row = main_row(demo, "lora", "mrpc_f1", "paraphrase")
    assert row.example_se == pytest.approx(st.example_standard_error(np.stack(values)))


def test_a_metric_that_its_predictions_do_not_give_gets_no_error_from_them(tmp_path):
    scores = [classification_score(method="lora", seed=s) for s in (0, 1)]
    for score in scores:
        score["metrics"]["mrpc_f1"] += 0.01
    assert np.isnan(main_row(tables_of(tmp_path, scores), "lora", "mrpc_f1", "paraphrase").example_se)


def test_the_best_is_bold_and_what_a_test_does_not_tell_from_it_is_marked(tmp_path):
    levels = {"none": 0.2, "lora": 0.60, "full": 0.61}
    scores = [generation_score(method=m, seed=s, accuracy=a) for m, a in levels.items() for s in range(5)]
    result = tables_of(tmp_path, scores, methods=list(levels))
    ranks = {m: main_row(result, m, "gsm8k_flexible")["rank"] for m in levels}
    assert sorted(ranks.values()) == ["", "best", "tied"]
    assert ranks["none"] == ""
    best = next(m for m, rank in ranks.items() if rank == "best")
    value = f"{100 * main_row(result, best, 'gsm8k_flexible')['mean']:.1f}"
    assert f"**{value}**" in read(result, "main.md")
    assert rf"\bfseries {value}" in read(result, "main.tex")
    assert "†: Not distinguishable from the best" in read(result, "main.md")


def test_lower_is_better_for_a_loss(tmp_path):
    scores = [generation_score(method=m, seed=s) for m in ("lora", "full") for s in (0, 1, 2)]
    for score in scores:
        level = 2.0 if score["method"] == "lora" else 1.0
        score["metrics"], score["main_metric"] = {"loss": level + score["seed"] / 1000}, "loss"
        del score["examples"]
    result = tables_of(tmp_path, scores)
    assert main_row(result, "full", "loss")["rank"] == "best"
    (row,) = [r for r in result.frames["comparison"].itertuples() if r.method == "full"]
    assert row.difference == pytest.approx(-1.0)
    # the differences of all seeds are equal, so that only their signs can speak, and three are too few
    assert row.verdict == "no difference shown"


def test_what_no_test_could_compare_with_the_best_is_not_passed_off_as_worse(tmp_path):
    levels = {"full": ((0, 1, 2), 0.9), "lora": ((0, 1, 2), 0.2), "ia3": ((7, 8, 9), 0.85)}
    scores = [generation_score(method=m, seed=s, accuracy=a) for m, (seeds, a) in levels.items() for s in seeds]
    result = tables_of(tmp_path, scores, methods=list(levels))
    ranks = {m: main_row(result, m, "gsm8k_flexible")["rank"] for m in levels}
    assert ranks == {"full": "best", "lora": "", "ia3": "untested"}
    assert "¶: Not compared with the best" in read(result, "main.md")
    assert r"\textsuperscript{\P{}}" in read(result, "main.tex")


def test_an_interval_of_values_beyond_the_names_bounds_is_left_as_it_is(tmp_path):
    scores = [generation_score(method="lora", seed=s) for s in range(3)]
    for score, value in zip(scores, (-1.5, -1.4, -1.3), strict=True):
        score["metrics"], score["main_metric"] = {"r2": value}, "r2"
        del score["examples"]
    row = main_row(tables_of(tmp_path, scores, methods=["lora"]), "lora", "r2")
    expected = stats.ttest_1samp([-1.5, -1.4, -1.3], 0).confidence_interval()
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high))


def test_a_run_that_lacks_one_benchmark_is_marked_there_alone_and_counted_once(tmp_path):
    scores = [generation_score(method=m, seed=s) for m in ("lora", "full") for s in range(3)]
    scores += [s | {"benchmark": "math", "evaluation": "math-1"} for s in scores if (s["method"], s["seed"]) != ("full", 2)]
    run = next(s["run"] for s in scores if (s["method"], s["seed"]) == ("full", 2))
    lacking = {"run": run, "task": "word_problems", "method": "full", "seed": 2, "state": "missing", "reason": "later"}
    result = tables_of(tmp_path, scores, [lacking | {"benchmarks": ["math"]}], methods=["lora", "full"])
    cost = result.frames["cost"].set_index("method").loc["full"]
    assert (cost.num_runs, cost.num_missing) == (2, 1)
    assert "| 2/3" in read(result, "cost.md")
    here, there = read(result, "main.md").split("## ")[1:]
    assert "full a" not in here and "full a" in there
