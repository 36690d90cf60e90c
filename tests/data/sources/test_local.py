from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lora_ns.config import DatasetConfig
from lora_ns.data import sources
from lora_ns.errors import DataError
from lora_ns.store.digests import rows_identity

ROWS = [{"text": 'say "hi"', "label": 1}, {"text": "a,b", "label": 0}, {"text": "ü", "label": 1}]


def dataset(**fields: object) -> DatasetConfig:
    return DatasetConfig.model_validate(fields)


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.name.endswith(".jsonl.gz"):
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"data": rows}))
    elif path.suffix == ".csv":
        path.write_text('text,label\n"say ""hi""",1\n"a,b",0\nü,1\n')
    else:
        path.write_text('\ufefftext\tlabel\nsay "hi"\t1\na,b\t0\nü\t1\n')
    return path


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"rows.{ending}", ROWS)
    tables = sources.load(dataset(name={"train": str(path), "test": str(path)})).tables
    separated = [{**row, "label": str(row["label"])} for row in ROWS]
    assert tables["train"].to_pylist() == (separated if ending in ("csv", "tsv") else ROWS)


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_what_stands_between_separators_is_the_text_of_the_row(tmp_path: Path, ending: str, separator: str) -> None:
    cells = [["18", "007"], ["2.5", "1e5"], ["", "12345678901234567890"], ["NA", "True"]]
    path = tmp_path / f"rows.{ending}"
    path.write_text("".join(separator.join(line) + "\n" for line in [["answer", "id"], *cells]))
    table = sources.load(dataset(name={"test": str(path)})).tables["test"]
    assert [list(row.values()) for row in table.to_pylist()] == cells


def test_whole_numbers_beside_others_stay_as_they_are_written(tmp_path: Path) -> None:
    mixed = write(tmp_path / "mixed.jsonl", [{"answer": 18}, {"answer": 2.5}, {"answer": None}])
    whole, others = (write(tmp_path / f"{n}.jsonl", [{"answer": answer}]) for n, answer in enumerate((18, 2.5)))
    for files, expected in ([mixed], ["18", "2.5", None]), ([whole, others], ["18", "2.5"]), ([others], [2.5]):
        table = sources.load(dataset(name={"test": list(map(str, files))})).tables["test"]
        assert table.column("answer").to_pylist() == expected


def test_a_folders_files_are_found_by_their_split(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", ROWS)
    write(tmp_path / "dev.tsv", ROWS)
    tables = sources.load(dataset(name=str(tmp_path), eval_split="validation")).tables
    assert set(tables) == {"train", "test"}


@pytest.mark.parametrize("name", ["dev", "val", "valid", "eval"])
def test_a_file_that_is_tested_on_by_its_name_is_not_the_validation_set_too(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.tsv", ROWS)
    write(tmp_path / f"{name}.tsv", ROWS)
    assert set(sources.load(dataset(name=str(tmp_path), eval_split=name)).tables) == {"train", "test"}
    held_out = sources.load(dataset(name=str(tmp_path), eval_split=name, validation_size=1)).tables
    assert [held_out[role].num_rows for role in ("train", "validation", "test")] == [len(ROWS) - 1, 1, len(ROWS)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": "b", "b": "a"}, {"a": 2, "b": 1}),
        ({"a": "b", "c": "a"}, {"a": 2, "b": 2, "c": 1}),
        ({"c": "a", "a": "b"}, {"a": 2, "b": 2, "c": 1}),
        ({"a": None, "c": "b"}, {"b": 2, "c": 2}),
        ({"a": "gone"}, {"a": 1, "b": 2}),
        ({"gone": None}, {"a": 1, "b": 2}),
    ],
)
def test_columns_are_called_anew_all_at_once(columns: dict[str, str | None], expected: dict[str, int]) -> None:
    assert sources.renamed(pa.table({"a": [1], "b": [2]}), columns).to_pylist() == [expected]


def test_rows_are_held_out_of_train_where_there_is_no_test_split(tmp_path: Path) -> None:
    rows = [{"n": i} for i in range(50)]
    path = write(tmp_path / "rows.jsonl", rows)
    loaded = sources.load(dataset(name=str(path), eval_size=0.2, validation_size=5))
    found = {split: [row["n"] for row in table.to_pylist()] for split, table in loaded.tables.items()}
    assert {split: len(numbers) for split, numbers in found.items()} == {"train": 35, "validation": 5, "test": 10}
    assert sorted(n for numbers in found.values() for n in numbers) == list(range(50))
    assert "held out of train" in loaded.warnings[0]


def test_a_limit_takes_a_seeded_sample_and_not_the_first_rows(tmp_path: Path) -> None:
    path = str(write(tmp_path / "rows.jsonl", [{"n": i} for i in range(100)]))

    def chosen(seed: int) -> list[int]:
        tables = sources.load(dataset(name={"train": path, "test": path}, max_samples=10, split_seed=seed)).tables
        return [row["n"] for row in tables["train"].to_pylist()]

    assert chosen(0) == chosen(0) == sorted(chosen(0)) != list(range(10))
    assert chosen(0) != chosen(1)


def test_a_headerless_file_takes_its_column_names_from_the_config(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('gj04\t1\t\tThe "sailors rode.\n')
    read = dataset(name={"train": str(tmp_path / "train.tsv"), "test": str(tmp_path / "train.tsv")}, column_names=list("abcd"))
    assert sources.load(read).tables["train"].to_pylist()[0]["d"] == 'The "sailors rode.'


def test_keys_of_later_rows_are_kept(tmp_path: Path) -> None:
    path = str(write(tmp_path / "rows.jsonl", [{"a": 1}, {"a": 2, "b": "x"}]))
    tables = sources.load(dataset(name={"train": path, "test": path})).tables
    assert tables["train"].to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        ('{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ('{"a": 1}\n[1]\n', "line 2: expected an object"),
        ("\n\n", "holds no rows"),
    ],
)
def test_a_damaged_file_names_the_place(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        sources.load(dataset(name={"train": str(path), "test": str(path)}))
    assert str(path) in str(caught.value)


def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"unknown ending; known: \.jsonl"):
        rows_identity(dataset(name={"train": str(tmp_path / "rows.xlsx")}))


def test_an_unknown_builtin_names_the_nearest() -> None:
    with pytest.raises(Exception, match="Did you mean 'word_problems'"):
        rows_identity(dataset(name="builtin:word_problem"))


def test_without_a_network_a_hub_name_fails_in_one_paragraph() -> None:
    with pytest.raises(DataError, match="neither a local file or folder here nor could it be loaded from the hub"):
        sources.load(dataset(name="nobody/nothing-of-this-name", revision="abc"))


@pytest.mark.parametrize(
    ("folder", "fields", "expected"),
    [
        ("glue/MRPC", {}, {"train": 3668, "test": 408}),
        ("glue/SST-2", {}, {"train": 67349, "test": 872}),
        ("glue/CoLA", {"column_names": ["source", "label", "mark", "sentence"]}, {"train": 8551, "test": 1043}),
        ("gsm8k", {"eval_split": "test"}, {"train": 7473, "test": 1319}),
    ],
)
def test_published_files_have_their_published_number_of_rows(
    shared_data: Path, folder: str, fields: dict, expected: dict
) -> None:
    loaded = sources.load(dataset(**{"name": str(shared_data / folder), "eval_split": "validation", **fields}))
    assert {split: table.num_rows for split, table in loaded.tables.items()} == expected
