"""Methods against the baseline."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from demo_tables import read, tables_of
from synthetic_scores import demo_scores, generation_score

from lora_ns.reporting import statistics as st
from lora_ns.reporting.results import Experiment, Results
from lora_ns.reporting.score_file import Score
from lora_ns.reporting.tables.comparison import compare_with_baseline


def test_the_comparison_is_the_two_way_difference_holm_adjusted_within_the_task(demo):
    frame = demo.frames["comparison"]
    of_task = frame[frame.task == "word_problems"]
    assert list(of_task.method) == ["none", "prompt_tuning", "prefix_tuning", "full"]

    def scores(method):
        return [
            s["examples"]["scores"]["gsm8k_flexible"]
            for s in demo_scores()
            if (s["task"], s["method"]) == ("word_problems", method)
        ]

    expected = st.two_way_difference(scores("full"), scores("lora"))
    row = of_task[of_task.method == "full"].iloc[0]
    assert (row.difference, row.low, row.high, row.p) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p_value)
    )
    assert row.detectable == pytest.approx(expected.detectable)
    assert list(of_task.p_holm) == pytest.approx(list(st.holm(of_task.p)))


def test_examples_are_paired_by_their_ids_not_by_their_place(tmp_path):
    scores = [generation_score(method=m, seed=s) for m in ("lora", "full") for s in (0, 1, 2)]
    shuffled = json.loads(json.dumps(scores))
    order = np.random.default_rng(0).permutation(200)
    for score in shuffled[:3]:
        score["examples"]["id"] = [score["examples"]["id"][i] for i in order]
        for values in score["examples"]["scores"].values():
            values[:] = [values[i] for i in order]
    first, second = (tables_of(tmp_path / str(i), s).frames["comparison"] for i, s in enumerate((scores, shuffled)))
    pd.testing.assert_frame_equal(first, second)


def test_examples_of_other_rows_are_not_paired_by_their_numbers(tmp_path):
    scores = [generation_score(method=m, seed=s) for m in ("lora", "full") for s in (0, 1)]
    for score in scores:
        score["inputs"] = {"asked": "test" if score["method"] == "lora" else "validation"}
    row = tables_of(tmp_path, scores, methods=["full", "lora"]).frames["comparison"].iloc[0]
    assert (row.reason, row.verdict) == ("asked other rows", "not compared")


def test_a_base_model_scored_once_is_compared_with_every_seed(tmp_path):
    scores = [generation_score(method="lora", seed=s) for s in (0, 1, 2)] + [generation_score(method="none", accuracy=0.2)]
    result = tables_of(tmp_path, scores, methods=["none", "lora"])
    row = result.frames["comparison"].iloc[0]
    assert (row.num_seeds, row.sources, row.verdict) == (3, "seeds and examples", "worse")


def test_only_shared_seeds_are_compared(tmp_path):
    scores = [generation_score(method=m, seed=s) for m, seeds in (("lora", (0, 1, 2)), ("full", (1, 2, 3))) for s in seeds]
    assert tables_of(tmp_path, scores).frames["comparison"].set_index("method").loc["full", "num_seeds"] == 2


def test_one_seed_each_is_compared_by_sign_flips_and_the_table_says_so(tmp_path):
    result = tables_of(tmp_path, [generation_score(method=m) for m in ("lora", "full")])
    row = result.frames["comparison"].set_index("method").loc["full"]
    assert row.sources == "examples"
    assert "p by sign flips; other seeds may differ" in read(result, "comparison.md")


def test_equal_methods_are_written_down_as_no_difference_shown(tmp_path):
    scores = [generation_score(method=m, seed=s, accuracy=0.6) for m in ("lora", "full") for s in (0, 1, 2)]
    result = tables_of(tmp_path, scores)
    for name in ("comparison.csv", "comparison.md", "comparison.tex"):
        assert "no difference shown" in read(result, name)


def test_without_a_baseline_nothing_is_compared(tmp_path):
    result = tables_of(tmp_path, demo_scores(), baseline=None)
    assert result.frames["comparison"].empty
    assert "names no baseline" in read(result, "comparison.md")
    assert "comparison" not in read(result, "paper.tex")


def test_a_difference_that_never_varies_has_no_limits_and_the_table_says_why(tmp_path):
    scores = [generation_score(method=m, seed=s, num_examples=20) for m in ("lora", "full") for s in range(3)]
    for score in scores:
        for metric in score["metrics"]:
            score["metrics"][metric], score["examples"]["scores"][metric] = 0.0, [0] * 20
    result = tables_of(tmp_path, scores, methods=["lora", "full"])
    (row,) = result.frames["comparison"].itertuples()
    assert (row.difference, row.verdict) == (0, "no difference shown")
    assert np.isnan([row.low, row.high, row.detectable]).all()
    text = read(result, "comparison.md")
    assert "nothing tells how far another draw would lie" in text
    assert "[0.0, 0.0]" not in text


def test_right_or_wrong_is_in_points_and_a_loss_in_its_own_unit_and_random_flips_are_said(tmp_path, demo):
    assert "in points of a percentage; of a loss or perplexity in its own unit" in read(demo, "comparison.md")
    one = read(tables_of(tmp_path, [generation_score(method=m) for m in ("lora", "full")]), "comparison.md")
    assert f"{st.RESAMPLES:,} random flips (random seed 0)" in one


def token_score(method: str, seed: int, shift: float, num_rows: int = 40):
    """Perplexity of rows of unequal length, all of whose likelihoods a method shifts."""
    difficulty, rng = np.random.default_rng(7), np.random.default_rng([seed, len(method)])
    tokens = difficulty.integers(3, 60, num_rows)
    loss = difficulty.normal(2.0, 0.3, num_rows) + rng.normal(shift, 0.05, num_rows)
    nats = (loss * tokens).sum() / tokens.sum()
    score = generation_score(method=method, seed=seed, benchmark="perplexity", main_metric="perplexity")
    examples = {"id": [str(i) for i in range(num_rows)], "scores": {"loss": loss.tolist()}, "tokens": tokens.tolist()}
    metrics = {"perplexity": float(np.exp(nats)), "loss": float(nats)}
    return {**score, "metrics": metrics, "num_examples": num_rows, "examples": examples}


def test_perplexity_is_compared_over_rows_too_and_one_seed_has_an_interval(tmp_path):
    scores = [token_score(m, s, shift) for m, shift in (("lora", 0.0), ("full", 0.2)) for s in range(3)]
    one, three = (tables_of(tmp_path / str(n), [s for s in scores if s["seed"] < n], methods=["lora", "full"]) for n in (1, 3))
    for result, sources in ((one, "examples"), (three, "seeds and examples")):
        (row,) = result.frames["comparison"].itertuples()
        assert (row.sources, row.num_examples, row.verdict) == (sources, 40, "worse")
    main = one.frames["main"]
    for metric in ("perplexity", "loss"):
        row = main[(main.metric == metric) & (main.method == "lora")].iloc[0]
        assert row.interval == "BCa over examples" and row.low < row["mean"] < row.high
        # 40 rows of about 2 nats, sd .3
        assert 0.02 < (row.high - row.low) / 4 / (row["mean"] if metric == "perplexity" else 1) < 0.1


@pytest.mark.parametrize(("gap", "verdict", "at_least"), [(0, "no difference shown", 95), (2, "worse", 90)])
def test_the_whole_table_keeps_to_its_error_rates(gap, verdict, at_least):
    """100 experiments of two methods that are `gap` detectable differences apart, from answers to verdict."""
    rng, seeds, n, detectable = np.random.default_rng(20), 5, 200, 0.068
    experiment = Experiment("e", baseline="lora", methods=("lora", "full"), tasks=("word_problems",))
    found, seen = [], []
    for _ in range(100):
        difficulty, scores = rng.normal(0, 1.5, n), []
        for method, worse in (("lora", 0.0), ("full", gap * detectable)):
            # symmetric about one half, so that the factor lowers the expected accuracy by `worse`
            chance = (1 - worse / 0.5) / (1 + np.exp(-(difficulty + rng.normal(0, 0.5, n))))
            for seed in range(seeds):
                right = (rng.random(n) < chance).astype(int).tolist()
                score = generation_score(method=method, seed=seed, num_examples=2) | {"path": "x", "num_examples": n}
                score |= {"metrics": {"right": float(np.mean(right))}, "main_metric": "right"}
                score["examples"] = {"id": [str(i) for i in range(n)], "scores": {"right": right}}
                scores.append(Score(**score))
        (row,) = compare_with_baseline(Results(experiment, tuple(scores))).itertuples()
        found.append(row.verdict)
        seen.append(row.detectable)
    assert np.median(seen) == pytest.approx(detectable, rel=0.1)
    assert found.count(verdict) >= at_least
