"""Rows to tokens, through the real stages: what carries loss, what is lost, and what is said of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import causal_task, sums, write_config

from lora_ns.config import RunConfig, check, load_config, merge
from lora_ns.data.encoding import encode_prompts
from lora_ns.data.prompts import prompt_of
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.errors import DataError
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_tokens


def task(model: Path, **changes: Any) -> RunConfig:
    return check(merge(causal_task(model), changes), "test")


def classes(model: Path, **dataset: Any) -> RunConfig:
    """A classification task over sums: is the answer even?"""
    data = {"name": "./sums", "text_columns": ["question"], "labels": ["odd", "even"], "max_length": 32, **dataset}
    base = {"task_name": "parity", "task_type": "classification", "model": {"name_or_path": str(model)}}
    return check({**base, "peft": {"method": "lora", "r": 4, "target_modules": "all-linear"}, "dataset": data}, "test")


def write(rows: list[dict[str, Any]], path: str = "sums/train.jsonl") -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def tokens(config: RunConfig, split: str = "train") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the examples, the record)."""
    from datasets import Dataset

    store = Store()
    folder = make_tokens(Run(config, store))
    return Dataset.from_file(str(folder / f"{split}.arrow")).to_list(), read_record(folder)


def test_a_training_prompt_has_the_ids_that_generation_starts_from(workplace: Path, tiny_causal: Path) -> None:
    config = task(tiny_causal)
    tokenizer = load_tokenizer(config.model, Store())
    examples, record = tokens(config)
    asked = encode_prompts([prompt_of(row, config.dataset) for row in sums(40)], tokenizer)
    for example, prompt in zip(examples, asked, strict=True):
        assert example["input_ids"][: example["spans"][0]] == prompt
    assert asked[0][0] == tokenizer.bos_token_id and record["ledger"]["train"]["joined_apart"] == 0


def test_only_the_response_and_its_end_carry_loss(workplace: Path, tiny_causal: Path) -> None:
    config = task(tiny_causal)
    tokenizer = load_tokenizer(config.model, Store())
    for example, row in zip(tokens(config)[0], sums(40), strict=True):
        start, end = example["spans"]
        assert end == len(example["input_ids"]) and example["input_ids"][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(example["input_ids"][start : end - 1]) == f" {row['answer']}"


def test_where_a_token_would_bridge_prompt_and_response_they_are_cut_apart(workplace: Path, tiny_causal: Path) -> None:
    """`##` + `## 7` would be the one token `####`, which generation never sees after `##`."""
    config = task(tiny_causal, dataset={"prompt_template": "{question} ##", "response_template": "## {answer}"})
    tokenizer = load_tokenizer(config.model, Store())
    prompt = prompt_of(sums(1)[0], config.dataset)
    joint = encode_prompts([f"{prompt}## 7"], tokenizer)[0]
    asked = encode_prompts([prompt], tokenizer)[0]
    assert joint[: len(asked)] != asked, "the fixture's tokenizer should bridge here"
    examples, record = tokens(config)
    assert examples[0]["input_ids"][: examples[0]["spans"][0]] == asked
    assert record["ledger"]["train"]["joined_apart"] == 40


def test_padding_is_masked_by_position_so_that_a_pad_that_is_eos_hides_no_end(
    workplace: Path, tiny_causal: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from lora_ns.data.collator import collate_of

    folder = tmp_path / "pad-is-eos"
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny_causal / name).read_bytes())
    config = task(folder)
    pad = load_tokenizer(config.model, Store()).pad_token_id
    assert pad == tokenizer.eos_token_id
    examples = sorted(tokens(config)[0], key=lambda row: len(row["input_ids"]))
    short, long = examples[0], examples[-1]
    assert len(short["input_ids"]) < len(long["input_ids"])
    batch = collate_of(config, load_tokenizer(config.model, Store()))([short, long])
    end = len(short["input_ids"])
    assert batch["labels"][0, end - 1] == pad, "the end of sequence is learned"
    assert (batch["labels"][0, end:] == -100).all() and batch["attention_mask"][0].sum() == end


def test_the_ledger_counts_every_row_and_token(workplace: Path, tiny_causal: Path) -> None:
    rows = [*sums(38), {"question": "Empty?", "answer": " "}, {"question": "why " * 60, "answer": "7"}]
    write(rows)
    config = task(tiny_causal, dataset={"max_dropped": 0.05, "max_length": 40})
    examples, record = tokens(config)
    ledger = record["ledger"]["train"]
    assert (ledger["rows_in"], ledger["rows_out"], len(examples)) == (40, 38, 38)
    assert ledger["dropped"] == {"empty response": 1, "prompt alone fills max_length (40 tokens)": 1}
    assert [line.split(":")[0] for line in ledger["dropped_rows"]] == ["row 38", "row 39"]
    lengths = [len(example["input_ids"]) for example in examples]
    supervised = sum(example["spans"][1] - example["spans"][0] for example in examples)
    assert (ledger["tokens"], ledger["longest"]) == (sum(lengths), max(lengths))
    assert (ledger["supervised_tokens"], ledger["mean_length"]) == (supervised, sum(lengths) / 38)
    assert ledger["supervised_rate"] == supervised / sum(lengths)


def test_a_long_answer_is_cut_and_counted(workplace: Path, tiny_causal: Path) -> None:
    write([{"question": "?", "answer": "long " * 60}, *sums(5)])
    whole = [len(example["input_ids"]) for example in tokens(task(tiny_causal, dataset={"max_length": 200}))[0]]
    examples, record = tokens(task(tiny_causal, dataset={"max_length": 30}))
    assert len(examples[0]["input_ids"]) == 30 and examples[0]["spans"][1] == 30
    assert record["ledger"]["train"]["truncated"] == sum(length > 30 for length in whole) > 0


def test_losing_more_rows_than_allowed_fails_and_names_them(workplace: Path, tiny_causal: Path) -> None:
    write([*sums(30), {"question": "?", "answer": ""}, *sums(9)])
    with pytest.raises(DataError, match=r"1 of 40 train rows .*max_dropped allows 1\.0%.* row 30: empty response"):
        tokens(task(tiny_causal))
    assert not list(Path("data/tokens").iterdir())


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"response_template": "{answr}"}, r"dataset\.response_template names the column 'answr'.*'answer'"),
        ({"columns": {"question": "frage"}, "prompt_template": "{frage}"}, "prompt_template names the column 'frage'"),
        ({"columns": {"query": "frage"}, "prompt_template": "{query}"}, r"dataset\.columns\.query: .*'frage'"),
        (
            {"format": "messages", "prompt_template": None, "response_template": None, "chat_template": "tulu"},
            "format messages names the column 'messages'",
        ),
    ],
    ids=["template", "columns unused", "columns", "format"],
)
def test_a_column_that_the_data_lacks_is_named(workplace: Path, tiny_causal: Path, dataset: dict, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        tokens(task(tiny_causal, dataset=dataset))


def test_rows_of_another_shape_name_the_format_that_fits(workplace: Path, tiny_causal: Path) -> None:
    for split in ("train", "test"):
        write([{"instruction": "Add.", "input": "", "output": "7"}] * 5, f"sums/{split}.jsonl")
    with pytest.raises(DataError, match=r"Its rows look like dataset\.format: alpaca"):
        tokens(task(tiny_causal))


# -- classes and numbers -------------------------------------------------------------------------------------------------


def test_labels_are_numbers_or_names_and_texts_are_cut_from_the_end(workplace: Path, tiny_encoder: Path) -> None:
    write([{"question": "What is 1 plus 1?", "label": "even"}, {"question": "so " * 99, "label": 0}, *labelled(3)])
    examples, record = tokens(classes(tiny_encoder, max_length=16))
    assert [example["label"] for example in examples] == [1, 0, 1, 0, 1]
    assert len(examples[1]["input_ids"]) == 16 and record["ledger"]["train"]["truncated"] == 1


def labelled(count: int) -> list[dict[str, Any]]:
    return [{"question": row["question"], "label": (i + 1) % 2} for i, row in enumerate(sums(count))]


@pytest.mark.parametrize(
    ("label", "expected"), [(2, "row 3: label is 2"), ("evne", "label is 'evne'"), (-1, "-1 marks the hidden labels")]
)
def test_a_label_outside_the_classes_names_its_row(workplace: Path, tiny_encoder: Path, label: object, expected: str) -> None:
    write([*labelled(3), {"question": "?", "label": label}])
    with pytest.raises(DataError, match=expected):
        tokens(classes(tiny_encoder))


def test_a_row_without_a_label_is_dropped_and_counted(workplace: Path, tiny_encoder: Path) -> None:
    write([*labelled(9), {"question": "?", "label": None}])
    examples, record = tokens(classes(tiny_encoder, max_dropped=0.1))
    assert len(examples) == 9 and record["ledger"]["train"]["dropped"] == {"no label": 1}


def test_regression_learns_numbers(workplace: Path, tiny_encoder: Path) -> None:
    write([{"question": "a", "label": "2.5"}, {"question": "b", "label": 3}])
    base = classes(tiny_encoder).model_dump()
    config = check({**base, "task_type": "regression", "dataset": {**base["dataset"], "labels": None}}, "test")
    assert [example["label"] for example in tokens(config)[0]] == [2.5, 3.0]
    write([{"question": "a", "label": "much"}])
    with pytest.raises(DataError, match=r"row 0: label is 'much', which is no number"):
        tokens(config)


# -- text, alpaca --------------------------------------------------------------------------------------------------------


def test_of_text_every_token_carries_loss_and_a_long_one_loses_none(workplace: Path, tiny_causal: Path) -> None:
    write([{"text": "the cat sat on the mat " * 20}, {"text": "7"}], "sums/train.jsonl")
    templates = {"prompt_template": None, "response_template": None}
    config = task(tiny_causal, dataset={"format": "text", "max_length": 50, **templates})
    tokenizer = load_tokenizer(config.model, Store())
    examples, record = tokens(config)
    whole = [token for example in examples[:-1] for token in example["input_ids"]]
    assert tokenizer.decode(whole) == "<s>" + "the cat sat on the mat " * 20 + "</s>"
    assert all(example["spans"] == [0, len(example["input_ids"])] for example in examples)
    assert record["ledger"]["train"]["truncated"] == 0 and record["ledger"]["train"]["longest"] == 50


def test_alpaca_rows_have_the_fields_standard_prompt(workplace: Path, tiny_causal: Path) -> None:
    write([{"instruction": "Add.", "input": "3, 4", "output": "7"}, {"instruction": "Hi", "input": "", "output": "Ho"}])
    templates = {"prompt_template": None, "response_template": None}
    config = task(tiny_causal, dataset={"format": "alpaca", "max_length": 256, **templates})
    tokenizer = load_tokenizer(config.model, Store())
    first, second = [
        [tokenizer.decode(ids) for ids in (e["input_ids"][1 : e["spans"][0]], e["input_ids"][e["spans"][0] : -1])]
        for e in tokens(config)[0]
    ]
    assert first[0].endswith("### Instruction:\nAdd.\n\n### Input:\n3, 4\n\n### Response:") and first[1] == "7"
    assert second[0].endswith("request.\n\n### Instruction:\nHi\n\n### Response:") and second[1] == "Ho"


# -- test rows among the training rows -------------------------------------------------------------------------------------


def overlapping(model: Path, policy: str) -> RunConfig:
    train = sums(40)
    write([*sums(8), {"question": "  what is 1 PLUS 1 ", "answer": "2"}, {"question": "New?", "answer": "1"}], "sums/test.jsonl")
    write(train)
    return task(model, dataset={"overlap": policy})


def test_training_rows_that_a_test_row_asks_too_are_counted_and_listed(workplace: Path, tiny_causal: Path) -> None:
    examples, record = tokens(overlapping(tiny_causal, "report"))
    assert record["overlap"]["test"] == {"train_rows": 8, "numbers": list(range(8)), "policy": "report"}
    assert len(examples) == 40 and "8 training rows ask what a test row asks" in record["warnings"][0]


def test_overlap_drop_leaves_them_out_without_calling_them_lost(workplace: Path, tiny_causal: Path) -> None:
    examples, record = tokens(overlapping(tiny_causal, "drop"))
    assert len(examples) == 32 and record["ledger"]["train"]["left_out_as_overlap"] == 8
    assert record["ledger"]["train"]["dropped"] == {}


def test_overlap_fail_fails(workplace: Path, tiny_causal: Path) -> None:
    with pytest.raises(DataError, match=r"8 training rows of \./sums ask what a test row asks \(rows 0, 1, 2"):
        tokens(overlapping(tiny_causal, "fail"))


def asked_elsewhere(model: Path, policy: str, columns: str = "q") -> RunConfig:
    """Forty training rows, two of which a benchmark's own data set asks too."""
    rows = [{columns: "WHAT is 1 plus 1?", "answer": "2"}, {columns: "New?", "answer": "1"}]
    write(rows, "other/test.jsonl")
    write([{columns: sums(40)[5]["question"], "answer": "1"}], "other/dev.jsonl")
    write([{columns: "Else?", "answer": "1"}], "other/train.jsonl")
    own = {"name": "gsm8k", "dataset": {"name": "./other", "prompt_template": "{q}"}}
    return task(model, dataset={"overlap": policy}, evaluation={"benchmarks": [own]})


def test_overlap_drop_leaves_out_what_a_benchmark_with_data_of_its_own_asks(workplace: Path, tiny_causal: Path) -> None:
    config = asked_elsewhere(tiny_causal, "drop")
    examples, record = tokens(config)
    assert record["overlap"]["gsm8k test"]["numbers"] == [0] and record["overlap"]["gsm8k validation"]["numbers"] == [5]
    assert len(examples) == 38 and record["ledger"]["train"]["left_out_as_overlap"] == 2
    assert record["inputs"]["held out 1"] == Store().rows(Run(config, Store()).held_out[0].dataset).name
    assert len(np.load(Run(config, Store()).tokens / "questions.npy")) == 38, "what was left out was not trained on"


def test_every_data_set_counts_also_two_of_one_benchmark_and_one_that_needs_settings(workplace: Path, tiny_causal: Path) -> None:
    benchmarks = []
    for number, name, settings in ((3, "exact_match", {}), (4, "exact_match", {}), (5, "regex", {"pattern": "(.*)"})):
        write([{"question": sums(40)[number]["question"], "answer": "1"}], f"{number}.jsonl")
        benchmarks.append({"name": name, "dataset": {"name": f"{number}.jsonl"}, "settings": settings})
    config = task(tiny_causal, dataset={"overlap": "drop"}, evaluation={"benchmarks": benchmarks})
    examples, record = tokens(config)
    assert len(examples) == 37 and record["overlap"]["exact_match test"]["numbers"] == [3, 4]
    assert record["overlap"]["regex test"]["numbers"] == [5] and len(record["inputs"]) == 4
    Path("results/runs/local_files.json").unlink()
    Run(config, Store()).write_file()
    assert {"3.jsonl", "4.jsonl", "5.jsonl"} <= set(Store().remembered), "a clone without them knows its digests"


def test_more_of_the_same_questions_name_no_other_tokens(workplace: Path, tiny_causal: Path) -> None:
    config = asked_elsewhere(tiny_causal, "drop")
    once = config.evaluation.benchmarks[0].model_dump(exclude={"generation"})
    twice = task(tiny_causal, dataset={"overlap": "drop"}, evaluation={"benchmarks": [once, {**once, "num_fewshot": 1}]})
    assert Run(twice, Store()).tokens == Run(config, Store()).tokens


def test_overlap_fail_fails_before_training_for_a_benchmark_with_data_of_its_own(workplace: Path, tiny_causal: Path) -> None:
    with pytest.raises(DataError, match=r"1 training rows of \./sums ask what a gsm8k validation row asks \(rows 5\)"):
        tokens(asked_elsewhere(tiny_causal, "fail"))


def test_benchmark_rows_that_cannot_be_read_are_named(workplace: Path, tiny_causal: Path) -> None:
    with pytest.raises(DataError, match=r"names the column 'q', which \./other \(validation\) lacks"):
        tokens(asked_elsewhere(tiny_causal, "drop", columns="z"))


def test_benchmark_rows_name_the_tokens_where_they_decide_what_is_trained_on(workplace: Path, tiny_causal: Path) -> None:
    dropped, reported = (asked_elsewhere(tiny_causal, policy) for policy in ("drop", "report"))
    before = [Run(config, Store()).tokens for config in (dropped, reported)]
    write([{"q": "Something else?", "answer": "2"}], "other/test.jsonl")
    after = [Run(config, Store()).tokens for config in (dropped, reported)]
    assert before[0] != after[0] and before[1] == after[1]


def test_a_run_file_says_which_rows_were_held_out_whatever_else_is_asked(workplace: Path, tiny_causal: Path) -> None:
    config, store = asked_elsewhere(tiny_causal, "drop"), Store()
    again = load_config(Run(config, store).write_file())
    assert again.evaluation != config.evaluation and again.dataset.held_out == config.dataset.held_out
    assert (Run(again, store).name, Run(again, store).tokens) == (Run(config, store).name, Run(config, store).tokens)
    evaluation = Run(config, store).evaluation(config.evaluation.benchmarks[0])
    assert evaluation.dataset.held_out is None, "what is left out of training is no part of a question"


def test_what_is_only_reported_names_no_held_out_rows(workplace: Path, tiny_causal: Path) -> None:
    assert asked_elsewhere(tiny_causal, "report").dataset.held_out is None
    assert overlapping(tiny_causal, "drop").dataset.held_out == []


def test_the_questions_of_the_training_rows_are_kept_as_hashes(workplace: Path, tiny_causal: Path) -> None:
    config = overlapping(tiny_causal, "report")
    tokens(config)
    kept = np.load(Run(config, Store()).tokens / "questions.npy")
    assert len(kept) == 40 and kept.dtype == np.uint64 and (np.diff(kept.astype(object)) > 0).all()


def test_the_verb_makes_the_same_tokens_without_loading_torch(workplace: Path, tiny_causal: Path) -> None:
    write_config(workplace / "task.yaml", causal_task(tiny_causal))
    config, store = load_config(Path("task.yaml")), Store()
    program = (
        "import sys; from lora_ns.cli import app; app(['tokenize', '--config', 'task.yaml'], standalone_mode=False); "
        "assert sys.modules.get('torch') is None"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_verb = (Run(config, store).tokens / "train.arrow").read_bytes()
    shutil.rmtree(Run(config, store).tokens)
    make_tokens(Run(config, store))
    assert (Run(config, store).tokens / "train.arrow").read_bytes() == by_verb
