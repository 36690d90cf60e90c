"""The tables over tasks, of costs and of the search."""

from __future__ import annotations

import numpy as np
import pytest
from demo_tables import read, tables_of
from synthetic_scores import demo_scores, generation_score


def test_over_tasks_gives_ranks_from_three_tasks_and_interquartile_means_from_four(tmp_path, demo):
    assert demo.frames["over_tasks"].set_index("method").loc["full", "average_rank"] == pytest.approx(1.0)
    assert demo.frames["over_tasks"].interquartile_mean.isna().all()
    four = tables_of(tmp_path / "4", demo_scores(tasks=("a", "b", "c", "paraphrase"))).frames["over_tasks"]
    assert four.interquartile_mean.notna().all()
    two = tables_of(tmp_path / "2", demo_scores(tasks=("a", "paraphrase")))
    assert two.frames["over_tasks"].empty
    assert "it needs 3 tasks" in read(two, "over_tasks.md")


def test_a_method_that_lacks_a_task_has_no_rank(tmp_path):
    scores = [s for s in demo_scores() if not (s["method"] == "full" and s["task"] == "paraphrase")]
    assert "full" not in set(tables_of(tmp_path, scores).frames["over_tasks"].method)


def test_costs_are_means_over_runs_greatest_peaks_and_dashes_where_nothing_was_measured(tmp_path):
    scores = [generation_score(method="lora", seed=s) for s in (0, 1)]
    scores[0]["cost"] |= {"train_peak_memory_bytes": 300 * 2**20, "adapter_bytes": None}
    scores[1]["cost"] |= {"train_peak_memory_bytes": 200 * 2**20, "adapter_bytes": None}
    result = tables_of(tmp_path, scores, methods=["lora"])
    row = result.frames["cost"].iloc[0]
    assert row.train_seconds == pytest.approx(12.8)
    assert row.train_tokens_per_second == pytest.approx(np.mean([45_678 / 12.3, 45_678 / 13.3]))
    assert row.train_peak_memory_bytes == 300 * 2**20
    assert np.isnan(row.adapter_bytes)
    (line,) = [line for line in read(result, "cost.md").splitlines() if line.startswith("| lora")]
    assert [cell.strip() for cell in line.strip("|").split("|")][3] == "–"
    assert ",,12.8," in read(result, "cost.csv")


def test_training_is_paid_once_however_many_benchmarks_follow(tmp_path):
    one = generation_score(method="lora")
    two = {**one, "benchmark": "math", "cost": {**one["cost"], "evaluate_seconds": 1.75}}
    row = tables_of(tmp_path, [one, two], methods=["lora"]).frames["cost"].iloc[0]
    assert (row.num_runs, row.train_seconds, row.evaluate_seconds) == (1, pytest.approx(12.3), pytest.approx(5.0))


def test_costs_of_runs_that_were_trained_at_once_say_so(tmp_path):
    alone, fused = generation_score(method="lora"), generation_score(method="full")
    fused["trained"] = {"circumstances": {"fused_with": ["another"]}}
    result = tables_of(tmp_path, [alone, fused], methods=["lora", "full"])
    lines = read(result, "cost.md").splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith(("| lora", "| full"))] == ["lora", "full §"]
    assert any(line.startswith("- §: Trained at once with other runs") for line in lines)


def test_energy_is_a_column_only_where_it_was_measured(tmp_path, demo):
    assert "energy" not in read(demo, "cost.md")
    score = generation_score(method="lora")
    score["cost"]["train_energy_joules"] = 5400.0
    assert "5.4" in read(tables_of(tmp_path, [score], methods=["lora"]), "cost.md")


def test_tuning_tells_the_choice_the_grid_and_the_edge(tmp_path):
    trials = [
        {
            "task": "word_problems",
            "method": m,
            "setting": {"training.learning_rate": rate},
            "metric": "acc",
            "value": v,
            "chosen": c,
        }
        for m, values in (("lora", (0.4, 0.6, 0.5)), ("full", (0.4, None, 0.7)))
        for rate, v, c in zip((1e-4, 2e-4, 5e-4), values, (v == max(w or 0 for w in values) for v in values), strict=True)
    ]
    result = tables_of(tmp_path, demo_scores(), tuning=trials)
    frame = result.frames["tuning"].set_index("method")
    assert (frame.loc["lora", "chosen"], frame.loc["lora", "on_edge"]) == ("0.0002", False)
    assert (frame.loc["full", "chosen"], frame.loc["full", "on_edge"], frame.loc["full", "num_failed"]) == ("0.0005", True, 1)
    assert frame.loc["lora", "tried"] == "0.0001 0.0002 0.0005"
    assert "a wider search might find better" in read(result, "tuning.md")


def pair(task: str, seeds=(0, 1, 2), **changes):
    accuracies = {"lora": 0.5, "full": 0.7}
    return [generation_score(task, m, s, a, **changes) for m, a in accuracies.items() for s in seeds]


def test_benchmarks_of_one_task_are_not_so_many_tasks(tmp_path):
    scores = [s for name in "xyz" for s in pair("a", benchmark=name, evaluation=f"{name}-1")]
    result = tables_of(tmp_path, scores, methods=["lora", "full"])
    assert result.frames["over_tasks"].empty
    scores += pair("b") + pair("c")
    more = tables_of(tmp_path / "more", scores, methods=["lora", "full"])
    assert set(more.frames["over_tasks"].num_tasks) == {3}
    assert "counts once for each of them" in read(more, "over_tasks.md")


def test_a_loss_counts_for_the_ranks_the_right_way_round_but_not_for_the_interquartile_mean(tmp_path):
    scores = [s for task in "abcd" for s in pair(task)]
    losses = pair("e")
    for score in losses:
        loss = {"lora": 2.0, "full": 1.0}[score["method"]] + score["seed"] / 100
        score |= {"metrics": {"loss": loss}, "main_metric": "loss", "examples": {}}
    result = tables_of(tmp_path, scores + losses, methods=["lora", "full"])
    rows = result.frames["over_tasks"].set_index("method")
    assert (rows.loc["full", "average_rank"], rows.loc["full", "num_tasks"]) == (1.0, 5)
    assert 0.6 < rows.loc["full", "interquartile_mean"] < 0.8
    assert "In the ranks only, as less is better: e, " in read(result, "over_tasks.md")


def test_seeds_are_brought_together_by_their_names_and_what_is_left_out_is_named(tmp_path):
    scores = [s for task in "abc" for s in pair(task, seeds=(0, 1, 2) if task != "c" else (1, 2, 3))]
    values = {0: 0.9, 1: 0.1, 2: 0.2, 3: 0.95}
    for score in scores:
        lead = 0.01 if score["method"] == "lora" else 0.0
        score |= {"metrics": {"gsm8k_flexible": values[score["seed"]] + lead}, "examples": {}}
    scores += [generation_score("a", "ia3", 1)]
    failed = [{"run": "d", "task": "d", "method": "lora", "seed": 0, "state": "failed", "reason": "x"}]
    result = tables_of(tmp_path, scores, failed, methods=["lora", "full", "ia3"])
    rows = result.frames["over_tasks"].set_index("method")
    assert dict(rows.num_seeds) == {"lora": 2, "full": 2}
    text = read(result, "over_tasks.md")
    assert "d (no score)" in text and "ia3 (no score on b" in text and "seeds that not every cell has (0, 3)" in text


def test_the_edge_of_a_search_is_that_of_the_values_that_came_to_a_score(tmp_path):
    values = {1e-4: 0.4, 2e-4: 0.6, 1e-3: None}
    trials = [
        {"task": "word_problems", "method": "lora", "setting": {"training.learning_rate": rate}, "metric": "acc"}
        | {"value": value, "chosen": value == 0.6}
        for rate, value in values.items()
    ]
    row = tables_of(tmp_path, pair("word_problems"), tuning=trials).frames["tuning"].iloc[0]
    assert (row.on_edge, row.tried, row.num_failed) == (True, "0.0001 0.0002 0.001", 1)
