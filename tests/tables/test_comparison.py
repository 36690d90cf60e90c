"""Methods against the baseline."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from demo_tables import read, tables_of
from synthetic_scores import demo_scores, generation_score

from lora_ns import statistics as st


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


def test_a_base_model_scored_once_is_compared_with_every_seed(tmp_path):
    scores = [generation_score(method="lora", seed=s) for s in (0, 1, 2)] + [
        generation_score(method="none", accuracy=0.2)
    ]
    result = tables_of(tmp_path, scores, methods=["none", "lora"])
    row = result.frames["comparison"].iloc[0]
    assert (row.num_seeds, row.sources, row.verdict) == (3, "seeds and examples", "worse")


def test_only_shared_seeds_are_compared(tmp_path):
    scores = [
        generation_score(method=m, seed=s) for m, seeds in (("lora", (0, 1, 2)), ("full", (1, 2, 3))) for s in seeds
    ]
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
