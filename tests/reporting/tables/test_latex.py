"""LaTeX that any name, any number of methods and any gap leaves compiling."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_scores import classification_score, demo_scores, general_score, generation_score, write_scores

from lora_ns.reporting.figures import make_figures
from lora_ns.reporting.tables.build import make_tables
from lora_ns.reporting.tables.latex import escape, to_latex
from lora_ns.reporting.tables.table import Cell, Column, Section, Table

HARD_NAME = r"a_b 100% & #1 $x$ {y} ~z^2 \end <q> |"


def table_of(rows: int, width: int = 3) -> Table:
    columns = (Column("Method"), *(Column(f"c{i}", "number") for i in range(width)))
    body = tuple((Cell(f"m_{i}"), *(Cell(f"{i}.5") for _ in range(width))) for i in range(rows))
    return Table("main", "T", "A caption.", "tab:a b_c", (Section("task_1", columns, body),))


def test_every_special_character_is_escaped():
    assert escape("100%_&#${}") == r"100\%\_\&\#\$\{\}"
    assert escape("a\\b") == r"a\textbackslash{}b"
    assert escape("é–†") == r"é--$\dagger$"
    assert escape("中\x07") == "[U+4E2D][U+0007]"


def test_numbers_stand_in_siunitx_columns_as_wide_as_the_longest():
    columns = (Column("Method"), Column("x", "number"))
    rows = ((Cell("a"), Cell("-123.4", bold=True)), (Cell("b"), Cell("5.67")), (Cell("c"), Cell("–")))
    text = to_latex(Table("t", "T", "C", "tab:t", (Section("", columns, rows),)))
    assert "S[table-format=-3.2" in text
    assert r"a & \bfseries -123.4 \\" in text
    assert "c & {--} " in text
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_a_long_table_breaks_over_pages_and_a_short_one_floats():
    assert r"\begin{table}" in to_latex(table_of(10))
    long = to_latex(table_of(100))
    assert r"\begin{longtable}" in long and r"\begin{table}" not in long


def test_captions_and_labels_are_the_experiments(tmp_path):
    experiment = {"name": "demo", "caption": "Our 5% study.", "label": "tab:our study", "baseline": "lora"}
    make_tables(experiment, write_scores(tmp_path, demo_scores()), [], tmp_path / "results/tables/demo")
    folder = tmp_path / "results/tables/demo"
    assert r"\caption{Our 5\% study.}\label{tab:our-study}" in (folder / "main.tex").read_text()
    assert r"\label{tab:our-study-comparison}" in (folder / "comparison.tex").read_text()


def compiled(folder: Path) -> tuple[int, str]:
    """Pages of the paper, and the log of the last run."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here: install texlive-latex-recommended and texlive-science")
    for package in ("booktabs", "siunitx", "longtable"):
        if subprocess.run(["kpsewhich", f"{package}.sty"], capture_output=True).returncode:
            pytest.skip(f"TeX here lacks {package}.sty")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(3):  # longtable finds its widths in the second and third run
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
        assert run.returncode == 0, run.stdout[-3000:]
    found = re.search(r"Output written on paper\.pdf \((\d+) pages?", run.stdout.replace("\n", ""))
    assert found, run.stdout[-3000:]
    return int(found[1]), run.stdout


def test_the_demos_paper_compiles_without_overfull_lines(tmp_path):
    scores = demo_scores()
    experiment = {"name": "demo", "title": "Demo", "baseline": "lora", "caption": "Five methods.", "label": "tab:demo"}
    scores += [general_score(m, s, 3.0 + s / 10) for m, n in (("none", 1), ("lora", 3), ("full", 3)) for s in range(n)]
    paths = write_scores(tmp_path, scores)
    make_tables(experiment, paths, [], tmp_path / "results/tables/demo", general=["perplexity-77aa"])
    make_figures(experiment, paths, [], tmp_path / "results/figures/demo")
    assert "forgetting.tex" in (tmp_path / "results/tables/demo/paper.tex").read_text()
    pages, log = compiled(tmp_path / "results/tables/demo")
    assert 2 <= pages <= 6
    assert "Overfull" not in log and "undefined" not in log
    assert "figures/demo/pareto.pdf" in log and "figures/demo/calibration.pdf" in log


def test_thirty_methods_hard_names_and_gaps_compile_without_overfull_lines(tmp_path):
    methods = [f"method_{i:02d}%" for i in range(29)] + ["one_with_a_rather_long_name-r16:all-linear"]
    scores = []
    for number, method in enumerate(methods):
        for seed in (0, 1):
            if number == 3 or (number == 4 and seed == 1):
                continue
            score = generation_score(HARD_NAME, method, seed, 0.3 + number / 60)
            score |= {"run": f"a-{number}-{seed}", "code": {"commit": f"{number:012d}", "dirty": True}}
            score |= {"unsafe_sandbox": True, "warnings": [f"revision of {HARD_NAME} is not pinned"]}
            main = score["metrics"]["gsm8k_flexible"]
            score["metrics"] = {"gsm8k_flexible": main, "constant^metric": 0.5, "eval_loss": 2.0}
            scores.append(score)
        scores.append(classification_score("задача_中", method) | {"run": f"b-{number}"})
    missing = [
        {"run": "x", "task": HARD_NAME, "method": methods[3], "seed": s, "state": "missing", "reason": None} for s in (0, 1)
    ]
    missing += [
        {"run": "y", "task": HARD_NAME, "method": methods[4], "seed": 1, "state": "failed", "reason": "out of memory: 100%_{0}"}
    ]
    experiment = {"name": "hard", "title": HARD_NAME, "caption": HARD_NAME, "label": HARD_NAME, "baseline": methods[0]}
    make_tables(experiment, write_scores(tmp_path, scores), missing, tmp_path / "results/tables/hard")
    pages, log = compiled(tmp_path / "results/tables/hard")
    assert 4 <= pages <= 12
    assert "Overfull" not in log


def test_an_experiment_without_any_score_compiles(tmp_path):
    missing = [{"run": "x", "task": "t_1", "method": "lora", "seed": 0, "state": "failed", "reason": "killed"}]
    make_tables({"name": "empty"}, [], missing, tmp_path / "results/tables/empty")
    assert compiled(tmp_path / "results/tables/empty")[0] >= 1
