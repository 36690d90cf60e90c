"""What is missing, and what makes scores less comparable, is said."""

from __future__ import annotations

import pytest
from demo_tables import METHODS, main_row, read, tables_of
from synthetic_scores import demo_scores, generation_score


def test_missing_and_failed_runs_are_dashes_and_footnotes(tmp_path):
    scores = [s for s in demo_scores() if s["method"] != "full" and not (s["method"] == "lora" and s["seed"] == 2)]
    lacking = [
        {"run": f"r{s}", "task": "word_problems", "method": "full", "seed": s, "state": "missing", "reason": ""}
        for s in (0, 1, 2)
    ]
    lacking += [
        {"run": "r", "task": "word_problems", "method": "lora", "seed": 2, "state": "failed", "reason": "loss not finite."}
    ]
    result = tables_of(tmp_path, scores, lacking)
    text = read(result, "main.md")
    assert "word_problems: seeds 0, 1, 2 missing." in text
    assert "word_problems: seed 2 failed (loss not finite)." in text
    (line,) = [line for line in text.splitlines() if line.startswith("| full ") and line.rstrip("| ").endswith("–")][:1]
    assert line.count("–") >= 7
    assert main_row(result, "lora", "gsm8k_flexible").num_seeds == 2
    cost = result.frames["cost"]
    of_lora = cost[(cost.task == "word_problems") & (cost.method == "lora")].iloc[0]
    assert (of_lora.num_runs, of_lora.num_failed, of_lora.num_missing) == (2, 1, 0)
    (row,) = [r for r in result.frames["comparison"].itertuples() if (r.task, r.method) == ("word_problems", "full")]
    assert (row.verdict, row.reason) == ("not compared", "no score")


def test_an_experiment_without_any_score_still_has_its_tables(tmp_path):
    lacking = [{"run": "r", "task": "word_problems", "method": m, "seed": 0, "state": "missing"} for m in METHODS]
    result = tables_of(tmp_path, [], lacking)
    assert "word_problems: seed 0 missing." in read(result, "main.md")


def test_mixed_commits_dirty_trees_unpinned_revisions_and_unsafe_sandboxes_are_said(tmp_path):
    scores = [generation_score(method=m) for m in ("lora", "full")]
    scores[0] |= {"code": {"commit": "fedcba9876543210", "dirty": True}, "unsafe_sandbox": True}
    scores[1] |= {"warnings": ["the model's revision is not pinned"], "trained": {"code": {"commit": "aaaabbbbccccdddd"}}}
    result = tables_of(tmp_path, scores)
    for name in ("main.md", "comparison.md", "cost.md"):
        text = read(result, name)
        assert "3 commits of the code: 0123456789, aaaabbbbcc, fedcba9876" in text
        assert "1 of 2 scores were made with uncommitted changes" in text
        assert "word_problems: the model's revision is not pinned." in text
        assert "unsafe sandbox" in text


def answered(dtype: str, quantization: str, batch_size: int, engine: str = "continuous") -> dict:
    how = {"engine": engine, "batch_size": batch_size, "dtype": dtype, "quantization": quantization, "device": "cpu"}
    return {"circumstances": {"answering": how}}


@pytest.mark.parametrize(
    ("precision", "said"),
    [(("bfloat16", "none"), "bfloat16"), (("float32", "4bit"), "float32 on 4bit weights")],
    ids=["bfloat16", "quantised"],
)
def test_scores_in_low_precision_that_were_answered_differently_have_a_footnote(tmp_path, precision, said):
    scores = [generation_score(method=m) for m in ("lora", "full")]
    scores[0] |= answered(*precision, 64)
    scores[1] |= answered(*precision, 8, "generate")
    result = tables_of(tmp_path, scores)
    for name in ("main.md", "comparison.md", "main.tex"):
        text = read(result, name).replace("\\allowbreak{}", "")
        assert "gsm8k: scores that are compared were answered in different ways" in text
        assert f"continuous, 64 at a time, {said}, on cpu; generate, 8 at a time, {said}, on cpu" in text


@pytest.mark.parametrize(("dtype", "sizes"), [("float32", (64, 8)), ("bfloat16", (64, 64))])
def test_equal_ways_and_float32_have_none(tmp_path, dtype, sizes):
    scores = [generation_score(method=m) | answered(dtype, "none", n) for m, n in zip(("lora", "full"), sizes, strict=True)]
    assert "different ways" not in read(tables_of(tmp_path, scores), "main.md")


def test_a_clean_experiment_has_no_such_warning(demo):
    text = read(demo, "main.md")
    assert "commit" not in text and "sandbox" not in text
