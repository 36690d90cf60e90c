"""Loss on general text against the base model."""

from __future__ import annotations

import numpy as np
import pytest
from demo_tables import read, tables_of
from scipy import stats
from synthetic_scores import general_score, generation_score

GENERAL = "perplexity-77aa"
BASE = 3.0
LOSSES = {"lora": (3.1, 3.2, 3.36), "full": (3.5, 3.5, 3.5)}


def scores(base: bool = True):
    asked = [generation_score(method=m, seed=s) for m in LOSSES for s in range(3)]
    general = [general_score(m, s, loss) for m, losses in LOSSES.items() for s, loss in enumerate(losses)]
    return asked + general + ([general_score("none", 0, BASE)] if base else [])


def test_forgetting_is_the_loss_over_the_bases_with_an_interval_over_seeds(tmp_path):
    result = tables_of(tmp_path, scores(), methods=["lora", "full"], general=[GENERAL])
    rows = result.frames["forgetting"].set_index("method")
    assert list(rows.index) == ["lora", "full"]
    changes = np.array(LOSSES["lora"]) - BASE
    expected = stats.ttest_1samp(changes, 0).confidence_interval()
    lora = rows.loc["lora"]
    found = (lora.loss, lora.base_loss, lora.difference, lora.low, lora.high)
    assert found == pytest.approx((np.mean(LOSSES["lora"]), BASE, changes.mean(), expected.low, expected.high))
    assert (lora.num_seeds, lora.baseline) == (3, "none")
    # seeds that all agree say nothing of others
    assert rows.loc["full", "difference"] == pytest.approx(0.5) and np.isnan(rows.loc["full", "low"])
    for name in ("forgetting.csv", "forgetting.md", "forgetting.tex"):
        assert "0.22" in read(result, name), name
    assert r"\input{forgetting.tex}" in read(result, "paper.tex")


def test_general_text_is_no_benchmark_of_the_comparison_even_beside_one_of_the_same_name(tmp_path):
    own = [general_score(m, s, 2.0 + s / 10 + (m == "full"), "perplexity-own") for m in LOSSES for s in range(3)]
    result = tables_of(tmp_path, scores() + own, methods=["lora", "full"], general=[GENERAL])
    main = result.frames["main"]
    assert set(main.method) == {"lora", "full"}
    assert main[(main.method == "lora") & (main.metric == "loss")]["mean"].item() == pytest.approx(2.1)
    values = result.frames["values"]
    assert len(values[values.metric == "loss"]) == 6 + 7, "every value is in values.csv all the same"


def test_an_unasked_base_is_a_dash_and_the_table_says_so(tmp_path):
    result = tables_of(tmp_path, scores(base=False), methods=["lora", "full"], general=[GENERAL])
    assert result.frames["forgetting"].difference.isna().all()
    assert "the base model has not been asked" in read(result, "forgetting.md")


def test_without_general_text_the_table_says_that_nothing_was_measured(demo):
    assert demo.frames["forgetting"].empty
    assert "forgetting was not measured" in read(demo, "forgetting.md")
    assert "forgetting" not in read(demo, "paper.tex")
