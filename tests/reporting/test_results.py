"""Score files to values, and files that are none."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from demo_tables import EXPERIMENT, read, tables_of
from rich.console import Console
from synthetic_scores import demo_scores, generation_score, write_scores

from lora_ns.errors import DataError
from lora_ns.reporting.tables.build import TABLE_FILES, make_tables
from lora_ns.reporting.tables.terminal import print_tables


def test_every_value_stands_once_with_the_file_that_it_is_from(demo):
    values = pd.read_csv(io.StringIO(read(demo, "values.csv")))
    scores = demo_scores()
    assert len(values) == sum(len(s["metrics"]) for s in scores)
    root = demo.files[0].parents[3]
    for row in values.sample(20, random_state=0).itertuples():
        content = json.loads((root / row.score_file).read_text())
        assert content["metrics"][row.metric] == pytest.approx(row.value)
        assert (content["run"], content["seed"], content["method"]) == (row.run, row.seed, row.method)


def test_all_files_are_written_and_the_same_bytes_again_from_another_folder(tmp_path, demo):
    assert [path.name for path in demo.files] == list(TABLE_FILES)
    again = tables_of(tmp_path / "elsewhere", list(reversed(demo_scores())))
    for first, second in zip(demo.files, again.files, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


@pytest.mark.parametrize(
    ("content", "said"), [("{\n", "line 2 is not JSON"), ("[]", "holds a list"), ('{"task": "t"}', "Field required")]
)
def test_a_file_that_is_no_score_file_is_named(tmp_path, content, said):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"bad\.json") as error:
        make_tables(EXPERIMENT, [path], [], tmp_path / "results/tables/demo")
    assert said in str(error.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_metric_that_is_no_number_is_refused(tmp_path, value):
    path = tmp_path / "bad.json"
    score = generation_score()
    path.write_text(json.dumps(score).replace(str(score["metrics"]["gsm8k_flexible"]), value))
    with pytest.raises(DataError, match=r"bad\.json is no score file: metrics\.gsm8k_flexible: .* finite number"):
        make_tables(EXPERIMENT, [path], [], tmp_path / "results/tables/demo")


def test_two_scores_of_one_run_are_refused(tmp_path):
    score = generation_score()
    paths = write_scores(tmp_path, [score])
    copy = paths[0].with_name("gsm8k-other.json")
    copy.write_text(paths[0].read_text())
    with pytest.raises(DataError, match="Two score files speak of the same thing"):
        make_tables(EXPERIMENT, [*paths, copy], [], tmp_path / "results/tables/demo")


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_terminal_shows_every_table_within_its_width(demo, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_tables(demo.tables, console)
    text = console.file.getvalue()
    for table in demo.tables:
        if table.sections:
            assert table.title in text
    assert max(map(len, text.splitlines())) <= width
    assert "59.7" in text
