"""Figures: what they draw, that they are vector and raster, and the same bytes again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from synthetic_scores import classification_score, demo_scores, generation_score, history, search, write_scores

from lora_ns.reporting import statistics as st
from lora_ns.reporting.figures import make_figures
from lora_ns.reporting.figures.curves import learning_curves
from lora_ns.reporting.figures.learning_rate import learning_rate
from lora_ns.reporting.figures.pareto import pareto
from lora_ns.reporting.figures.reliability import reliability
from lora_ns.reporting.figures.seeds import seeds
from lora_ns.reporting.figures.style import look
from lora_ns.reporting.results import Results, collect
from lora_ns.reporting.tables.cost import costs
from lora_ns.reporting.tables.paper import FIGURES
from lora_ns.reporting.tables.summary import summarise

METHODS = ["none", "prompt_tuning", "prefix_tuning", "lora", "full"]
EXPERIMENT = {"name": "demo", "methods": METHODS, "tasks": ["word_problems", "paraphrase"]}


def scores_with_everything():
    scores = demo_scores(tasks=("word_problems", "paraphrase"))
    for score in scores:
        if score["method"] != "none":
            score["trained"] = {"history": history(score["method"], score["seed"])}
            score["cost"]["trainable_parameters"] *= 10 ** METHODS.index(score["method"])
    return scores


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    root = tmp_path_factory.mktemp("figures")
    return collect(EXPERIMENT, write_scores(root, scores_with_everything()), [], root)


def test_every_figure_is_written_as_pdf_and_png_and_the_same_bytes_again(tmp_path):
    scores = [s for s in scores_with_everything() if s["task"] == "paraphrase"]
    trials = search(["lora", "full"], ["paraphrase"])
    paths = write_scores(tmp_path, scores)
    first, second = (make_figures(EXPERIMENT, paths, [], tmp_path / "results/figures" / n, trials) for n in "ab")
    assert {path.name for path in first} == {f"{name}.{ending}" for name in FIGURES for ending in ("pdf", "png")}
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        assert one.read_bytes()[:4] == (b"%PDF" if one.suffix == ".pdf" else b"\x89PNG")
        assert b"CreationDate" not in one.read_bytes()


def test_a_figure_without_data_is_not_drawn_and_an_old_one_goes(tmp_path):
    out = tmp_path / "results/figures/demo"
    out.mkdir(parents=True)
    (out / "learning_rate.pdf").write_bytes(b"old")
    score = generation_score(method="lora")
    score["cost"] = {}
    names = {path.name for path in make_figures(EXPERIMENT, write_scores(tmp_path, [score]), [], out)}
    assert names == {"seeds.pdf", "seeds.png"} == {path.name for path in out.iterdir()}


def test_the_pareto_figure_shows_each_trained_method_at_its_cost_and_the_base_as_a_line(results):
    summary = summarise(results)
    figure = pareto(results, summary, costs(results))
    ax = figure.axes[0]
    points = {
        line.get_xdata()[0]: line.get_ydata()[0]
        for line in ax.lines
        if line.get_marker() in "s^Dv" and len(line.get_xdata()) == 1
    }
    assert sorted(points) == [12345 * 10**i for i in (1, 2, 3, 4)]
    of_full = summary[(summary.task == "word_problems") & (summary.method == "full")].iloc[0]
    assert points[123450000] == pytest.approx(100 * of_full["mean"])
    (base,) = [line for line in ax.lines if line.get_label() == "none (untrained)"]
    of_base = summary[(summary.task == "word_problems") & (summary.method == "none")].iloc[0]
    assert base.get_ydata()[0] == pytest.approx(100 * of_base["mean"])


def test_the_memory_of_runs_trained_at_once_is_an_open_mark_and_on_no_front(tmp_path):
    scores = [generation_score(method=m, accuracy=a) for m, a in (("lora", 0.9), ("ia3", 0.3), ("full", 0.6))]
    for score, memory in zip(scores, (1, 2, 4), strict=True):
        score["cost"] |= {"train_peak_memory_bytes": memory * 2**20, "trainable_parameters": memory}
    scores[0]["trained"] = {"circumstances": {"fused_with": ["another"]}}
    found = collect({"name": "x", "methods": ["lora", "ia3", "full"]}, write_scores(tmp_path, scores), [], tmp_path)
    parameters, _, memory = pareto(found, summarise(found), costs(found)).axes

    def marks(ax):
        return {line.get_xdata()[0]: line.get_markerfacecolor() for line in ax.lines if line.get_marker() in tuple("os^Dv")}

    def fronts(ax):
        return [list(line.get_xdata()) for line in ax.lines if line.get_drawstyle() == "steps-post"]

    assert [face == "none" for _, face in sorted(marks(memory).items())] == [True, False, False]
    assert "none" not in marks(parameters).values()
    assert fronts(memory) == [[2.0, 4.0]], "lora's own memory is not known, so it beats no one"
    assert fronts(parameters) == [], "lora alone is on the front of what was measured for each by itself"


def test_the_strip_plot_shows_every_seed(results):
    figure = seeds(results, summarise(results))
    shown = [x for line in figure.axes[0].lines if line.get_marker() not in ("None", "", None) for x in line.get_xdata()]
    values = [
        100 * s.metrics["gsm8k_flexible"]
        for method in METHODS
        for s in results.scores
        if (s.task, s.method) == ("word_problems", method)
    ]
    assert sorted(shown) == pytest.approx(sorted(values))


def test_learning_curves_are_means_over_seeds_with_a_band_over_all_of_them(tmp_path):
    scores = [generation_score(method="lora", seed=s) for s in (0, 1)]
    for score, loss in zip(scores, (1.0, 3.0), strict=True):
        score["trained"] = {"history": [{"step": step, "loss": loss + step} for step in (1, 2, 3)]}
    found = collect({"name": "x"}, write_scores(tmp_path, scores), [], tmp_path)
    (ax,) = learning_curves(found).axes
    (line,) = ax.lines
    assert line.get_ydata() == pytest.approx([3.0, 4.0, 5.0])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((2.0, 6.0))


def test_a_training_scored_on_two_benchmarks_is_one_curve(tmp_path):
    one = generation_score(method="lora") | {"trained": {"history": history("lora", 0, 20)}}
    found = collect({"name": "x"}, write_scores(tmp_path, [one, one | {"benchmark": "math"}]), [], tmp_path)
    (ax,) = learning_curves(found).axes
    assert len(ax.lines) == 1 and not ax.collections


def test_the_learning_rate_figure_rings_the_chosen_rate(results):
    figure = learning_rate(results, search(["lora", "full"], ["word_problems"]))
    rings = [line for line in figure.axes[0].lines if line.get_markersize() == 11]
    chosen = {t["setting"]["training.learning_rate"] for t in search(["lora", "full"], ["word_problems"]) if t["chosen"]}
    assert {line.get_xdata()[0] for line in rings} == chosen


def test_the_calibration_figure_shows_the_error_over_all_seeds(results):
    curves, errors = reliability(results).axes
    of_lora = [s.examples for s in results.scores if (s.task, s.method) == ("paraphrase", "lora")]
    found = st.calibration(np.concatenate([e.probabilities for e in of_lora]), np.concatenate([e.reference for e in of_lora]))
    place = METHODS.index("lora")
    shown = [line.get_xdata()[-1] for line in errors.lines if line.get_ydata()[-1] == place]
    assert shown == pytest.approx([100 * found.error] * 2)
    assert len(curves.lines) == len(METHODS) + 1


def test_no_two_of_thirty_methods_look_alike_and_neighbours_differ_in_grey():
    methods = [f"m{i}" for i in range(30)]
    looks = [look(methods, m) for m in methods]
    assert len({(s["color"], s["marker"]) for s in looks}) == 30
    assert all(a["marker"] != b["marker"] and a["linestyle"] != b["linestyle"] for a, b in pairwise(looks))
    assert all(0 <= c <= 1 for s in looks for c in to_rgb(s["color"]))


def test_names_with_dollars_and_scripts_that_the_font_lacks_are_drawn(tmp_path):
    score = classification_score("$x_1$ 中", "a_%$") | {"run": "r"}
    files = make_figures({"name": "x"}, write_scores(tmp_path, [score]), [], tmp_path / "results/figures/x")
    assert Path(files[0]).stat().st_size > 1000
