"""Whole small runs, one for each shape that data comes in: from rows to a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support import REPOSITORY, causal_task, evaluate

from lora_ns.benchmarks.sandbox.tiers import unavailable
from lora_ns.config import DatasetConfig, RunConfig, check, load_config, merge
from lora_ns.data import sources
from lora_ns.data.fetch import fetch
from lora_ns.data.sources import hub
from lora_ns.data.tokenization import tokenize
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.errors import DataError
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.train import train

UNMARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '</s>' }}{% endgeneration %}{% else %}{{ m['content'] + '</s>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
needs_sandbox = pytest.mark.skipif(
    bool(unavailable("bubblewrap") and unavailable("landlock")), reason="no sandbox on this machine"
)


def run(config: RunConfig) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """(scores, prediction lines) of all benchmarks of a config, through every stage."""
    store, scores, lines = Store(), [], []
    fetch(config.dataset, store)
    if config.peft.method != "none":
        tokenize(Run(config, store))
    train(Run(config, store), quiet=True)
    for entry in config.evaluation.benchmarks:
        evaluation = Run(config, store).evaluation(entry)
        fetch(evaluation.dataset, store)
        scores.append(json.loads(evaluate(Run(config, store), evaluation, quiet=True).read_text()))
        kept = store.predictions(Run(config, store).name, evaluation.name).read_text().splitlines()
        lines.append([json.loads(line) for line in kept])
    return scores, lines


def task(model: Path, dataset: dict[str, Any], benchmarks: list[Any], **changes: Any) -> RunConfig:
    base = causal_task(model)
    base |= {"dataset": {"max_length": 250, **dataset}}
    base |= {"evaluation": {"benchmarks": benchmarks, "generation": {"max_new_tokens": 4}}}
    base |= {"training": {"max_steps": 2, "global_batch_size": 4, "learning_rate": 1e-2}}
    return check(merge(base, changes), "test")


def supervised(config: RunConfig) -> list[list[str]]:
    """The supervised texts of each training row."""
    from datasets import Dataset

    store = Store()
    tokenizer = load_tokenizer(config.model, store)
    rows = Dataset.from_file(str(Run(config, store).tokens / "train.arrow")).to_list()
    places = [list(zip(row["spans"][::2], row["spans"][1::2], strict=True)) for row in rows]
    return [[tokenizer.decode(row["input_ids"][a:b]) for a, b in of] for row, of in zip(rows, places, strict=True)]


def conversations(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} plus 1?"},
                {"role": "assistant", "content": f"{i + 1}"},
                {"role": "user", "content": "Is the cat on the mat?"},
                {"role": "assistant", "content": f"the cat sat on mat {i}"},
            ]
        }
        for i in range(count)
    ]


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("template", [UNMARKED, MARKED], ids=["without generation marks", "with generation marks"])
def test_messages_train_and_evaluate_with_loss_on_the_assistants_words_and_end_mark(
    workplace: Path, tiny_causal: Path, template: str
) -> None:
    write("sums/train.jsonl", conversations(8))
    write("sums/test.jsonl", conversations(3))
    config = task(tiny_causal, {"name": "./sums", "format": "messages", "chat_template": template}, ["exact_match", "perplexity"])
    (exact, perplexity), (lines, _) = run(config)
    assert supervised(config) == [[f"{i + 1}</s>", f"the cat sat on mat {i}</s>"] for i in range(8)]
    assert lines[0]["prompt"] == (
        "<|user|>\nWhat is 0 plus 1?</s>\n<|assistant|>\n1</s>\n<|user|>\nIs the cat on the mat?</s>\n<|assistant|>\n"
    )
    assert [line["reference"] for line in lines] == [f"the cat sat on mat {i}" for i in range(3)]
    assert exact["num_examples"] == 3 and perplexity["metrics"]["loss"] > 0


def test_sharegpt_and_a_tokenizers_own_template(workplace: Path, tiny_causal: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "spoken-to"
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal)
    tokenizer.chat_template = UNMARKED
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((tiny_causal / name).read_bytes())
    names = {"user": "human", "assistant": "gpt"}
    rows = [
        {"conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in row["messages"]]}
        for row in conversations(6)
    ]
    write("sums/train.jsonl", rows)
    write("sums/test.jsonl", rows[:2])
    config = task(folder, {"name": "./sums", "format": "sharegpt"}, ["exact_match"])
    run(config)
    assert supervised(config)[0] == ["1</s>", "the cat sat on mat 0</s>"]


def test_continued_training_on_lines_of_text(workplace: Path, tiny_causal: Path) -> None:
    Path("book.txt").write_text("the cat sat on the mat\n\nwhat is 3 plus 4\n" * 20)
    config = task(tiny_causal, {"name": "book.txt", "format": "text", "eval_size": 5}, ["perplexity"])
    (score,), _ = run(config)
    assert score["num_examples"] == 5 and len(supervised(config)) == 35
    assert set(map(tuple, supervised(config))) == {("<s>the cat sat on the mat</s>",), ("<s>what is 3 plus 4</s>",)}


def test_real_alpaca_rows_train_and_evaluate(workplace: Path, tiny_causal: Path, shared_data: Path) -> None:
    name = str(shared_data / "code_sft/code_alpaca_2k.json")
    data = {"name": name, "format": "alpaca", "max_samples": 24, "max_eval_samples": 6, "max_dropped": 1.0}
    config = task(tiny_causal, {**data, "max_length": 400}, ["exact_match", "perplexity"])
    (exact, perplexity), (lines, _) = run(config)
    rows = {row["output"]: row for row in json.loads(Path(name).read_text())}
    learned = [text.removesuffix("</s>") for (text,) in supervised(config)]
    assert len(learned) > 12 and all(any(output.startswith(text) for output in rows) for text in learned)
    assert exact["num_examples"] == perplexity["num_examples"] == 6
    assert all(line["prompt"].startswith("Below is an instruction that describes a task") for line in lines)
    assert all(line["reference"] in rows for line in lines)


# -- code ------------------------------------------------------------------------------------------------------------------


def test_gsm8ks_whole_test_set_is_asked_and_scored(workplace: Path, tiny_causal: Path, shared_data: Path) -> None:
    templates = {"prompt_template": "Question: {question}\nAnswer:", "response_template": " {answer}"}
    entry = {"name": "gsm8k", "dataset": {"name": {"test": str(shared_data / "gsm8k/test.jsonl")}}}
    base = task(tiny_causal, {"name": "./sums", **templates}, [entry])
    settings = {"generation": {"max_new_tokens": 2}, "batch_size": 128}
    config = base.model_copy(
        update={"peft": base.peft.model_validate({"method": "none"}), "evaluation": base.evaluation.model_copy(update=settings)}
    )
    (score,), (lines,) = run(config)
    assert score["num_examples"] == len(lines) == len({line["id"] for line in lines}) == 1319
    assert all(len(line["completions"]) == 1 for line in lines) and score["metrics"]["gsm8k_flexible"] < 0.05


@needs_sandbox
def test_mbpp_asks_its_test_set_after_the_papers_three_examples(workplace: Path, tiny_causal: Path, shared_data: Path) -> None:
    entry = {"name": "mbpp", "dataset": {"name": str(shared_data / "mbpp/mbpp.jsonl")}, "limit": 6}
    base = task(tiny_causal, {"name": "./sums", "prompt_template": "{question}", "response_template": "{answer}"}, [entry])
    config = base.model_copy(update={"peft": base.peft.model_validate({"method": "none"})})
    (score,), (lines,) = run(config)
    assert all(11 <= int(line["id"]) <= 510 for line in lines) and len(lines) == 6
    for line in lines:
        assert line["prompt"].count("[BEGIN]") == 4 and line["prompt"].count("[DONE]") == 3
        assert line["prompt"].endswith("[BEGIN]\n") and "write a function to find the similar elements" in line["prompt"].lower()
    assert score["sandbox"]["tier"] in ("bubblewrap", "landlock") and set(score["sandbox"]["attacks"].values()) == {"blocked"}
    assert score["sandbox"]["golds"]["total"] == 6 and score["metrics"] == {"pass@1": 0.0}


@needs_sandbox
def test_humaneval_is_asked_as_a_request_of_a_model_that_is_spoken_to(
    workplace: Path, tiny_causal: Path, shared_data: Path
) -> None:
    write("sums/train.jsonl", conversations(8))
    entry = {
        "name": "humaneval",
        "dataset": {"name": str(shared_data / "humaneval/HumanEval.jsonl.gz")},
        "limit": 3,
        "generation": {"do_sample": True, "num_samples": 4},
        "settings": {"pass_at": [1, 2]},
    }
    config = task(tiny_causal, {"name": "./sums", "format": "messages", "chat_template": "tulu", "eval_size": 2}, [entry])
    Path("sums/test.jsonl").unlink()
    (score,), (lines,) = run(config)
    assert all(line["prompt"].startswith("<s><|user|>\nComplete this Python function.") for line in lines)
    assert all(line["prompt"].endswith("```\n<|assistant|>\n") and len(line["completions"]) == 4 for line in lines)
    assert score["metrics"] == {"pass@1": 0.0, "pass@2": 0.0} and score["config"]["generation"]["stop"] == []
    assert (score["sandbox"]["golds"]["passed"], score["sandbox"]["golds"]["failed"]) == (3, [])


# -- GLUE --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["glue_mrpc", "glue_cola", "glue_sst2"])
def test_glues_own_files_train_and_evaluate_by_their_ready_config(
    workplace: Path, tiny_encoder: Path, shared_data: Path, name: str
) -> None:
    folder = {"glue_mrpc": "MRPC", "glue_cola": "CoLA", "glue_sst2": "SST-2"}[name]
    config = load_config(
        REPOSITORY / f"configs/{name}.yaml",
        {
            "dataset": {"name": str(shared_data / "glue" / folder), "max_samples": 60, "max_eval_samples": 40},
            "dataset.max_length": 64,
            "model": {"name_or_path": str(tiny_encoder), "revision": None},
            "training.max_steps": 2,
        },
    )
    (score,), (lines,) = run(config)
    assert score["num_examples"] == 40 and set(score["metrics"]) <= {"accuracy", "f1", "matthews_correlation"}
    assert all(isinstance(text, str) and text for line in lines for text in line["texts"])
    assert read_record(Run(config, Store()).tokens)["ledger"]["train"]["rows_out"] == 60


@pytest.mark.parametrize(("folder", "expected"), [("MRPC", (3668, 408)), ("CoLA", (8551, 1043)), ("SST-2", (67349, 872))])
def test_glues_own_files_have_their_published_number_of_rows(shared_data: Path, folder: str, expected: tuple[int, int]) -> None:
    name = {"MRPC": "mrpc", "CoLA": "cola", "SST-2": "sst2"}[folder]
    dataset = load_config(REPOSITORY / f"configs/glue_{name}.yaml", {"dataset.name": str(shared_data / "glue" / folder)}).dataset
    tables = sources.load(dataset).tables
    assert (tables["train"].num_rows, tables["test"].num_rows) == expected


TSV = {  # header and two lines in the form of GLUE's own files, quotes unbalanced as they are there
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        '0\tnews\tf\t2012\t1\tnone\tnone\tA "cat sits.\tA cat sat.\t4.250',
        "1\tnews\tf\t2012\t2\tnone\tnone\tA dog.\tThe mat.\t0.000",
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        '0\t1\t2\tWhat is "3?\tWhat is three?\t1',
        "1\t3\t4\tWhy?\tHow?\t0",
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label",
        '0\t1\t1e\tfiction\tThe "cat sat.\tIt sat.\tentailment\tentailment',
        "1\t2\t2c\tfiction\tThe cat sat.\tIt ran.\tcontradiction\tcontradiction",
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        '0\tWho "sat?\tThe cat sat.\tentailment',
        "1\tWhy?\tThe cat sat.\tnot_entailment",
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        '0\tThe "cat sat.\tIt sat.\tentailment',
        "1\tThe cat sat.\tIt ran.\tnot_entailment",
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel", '0\tThe "cat sat.\tIt sat.\t1', "1\tThe cat sat.\tIt ran.\t0"),
}


@pytest.mark.parametrize("name", TSV)
def test_the_other_glue_tasks_read_files_of_their_own_form(workplace: Path, tiny_encoder: Path, name: str) -> None:
    Path("glue").mkdir()
    text = "\ufeff" + "\n".join(TSV[name]) + "\n"
    for split in ("train", *(("dev_matched", "dev_mismatched") if name == "mnli" else ("dev",))):
        Path(f"glue/{split}.tsv").write_text(text)
    changes = {"dataset.name": "./glue", "model": {"name_or_path": str(tiny_encoder), "revision": None}}
    config = load_config(REPOSITORY / f"configs/glue_{name}.yaml", changes)
    store = Store()
    fetch(config.dataset, store)
    rows = pa.ipc.open_stream(tokenize(Run(config, store)) / "train.arrow").read_all().to_pylist()
    expected = {"stsb": [4.25, 0.0], "qqp": [1, 0], "mnli": [0, 2], "qnli": [0, 1], "rte": [0, 1], "wnli": [1, 0]}
    assert [row["label"] for row in rows] == expected[name]
    for entry in config.evaluation.benchmarks:
        dataset = Run(config, store).evaluation(entry).dataset
        assert sources.load(dataset).tables["test"].num_rows == 2


def test_mrpcs_labelled_test_set_is_a_tsv_whatever_its_ending_says(shared_data: Path) -> None:
    files = {
        split: str(shared_data / "glue/MRPC" / file)
        for split, file in {"train": "train.tsv", "test": "msr_paraphrase_test.txt"}.items()
    }
    dataset = DatasetConfig.model_validate({"name": files, "file_kind": "tsv"})
    test = sources.load(dataset).tables["test"]
    assert test.num_rows == 1725 and test.column_names[0] == "Quality"


# -- the hub -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_like(tmp_path: Path) -> Path:
    """A folder that `datasets` reads as it reads a hub repository."""
    (tmp_path / "set").mkdir()
    for split, count in {"train": 500, "test": 9}.items():
        write(str(tmp_path / "set" / f"{split}.jsonl"), [{"n": n} for n in range(count)])
    return tmp_path / "set"


def streamed(name: Path, **fields: Any) -> dict[str, list[int]]:
    dataset = DatasetConfig.model_validate({"name": str(name), "streaming": True, **fields})
    return {split: table.column("n").to_pylist() for split, table in hub.load(dataset).items()}


def test_streaming_reads_a_shuffled_sample_of_the_asked_size_and_the_same_again(hub_like: Path) -> None:
    first = streamed(hub_like, max_samples=20)
    assert len(first["train"]) == 20 and first["test"] == list(range(9)) and first["train"] != list(range(20))
    assert streamed(hub_like, max_samples=20) == first != streamed(hub_like, max_samples=20, split_seed=1)


def test_streaming_loads_no_split_as_a_whole(hub_like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    load = datasets.load_dataset
    asked: list[bool] = []

    def noted(*names: Any, streaming: bool = False, **where: Any) -> Any:
        asked.append(streaming)
        return load(*names, streaming=streaming, **where)

    monkeypatch.setattr(datasets, "load_dataset", noted)
    streamed(hub_like, max_samples=20)
    assert asked == [True, True]


def test_a_hub_sets_validation_split_is_used_though_nobody_names_it(hub_like: Path) -> None:
    write(str(hub_like / "validation.jsonl"), [{"n": n} for n in range(30)])
    assert streamed(hub_like, max_samples=20)["validation"] == list(range(30))
    assert len(streamed(hub_like, max_samples=20, max_validation_samples=5)["validation"]) == 5
    dataset = DatasetConfig.model_validate({"name": str(hub_like)})
    assert {split: table.num_rows for split, table in hub.load(dataset).items()} == {"train": 500, "validation": 30, "test": 9}
    assert set(hub.load(dataset.model_copy(update={"eval_split": "validation"}))) == {"train", "validation"}


def test_streaming_reads_what_is_held_out_of_train_besides(hub_like: Path) -> None:
    assert len(streamed(hub_like, max_samples=20, validation_size=5)["train"]) == 25
    (hub_like / "test.jsonl").unlink()
    assert len(streamed(hub_like, max_samples=20, eval_size=0.2)["train"]) == 25


def test_a_set_without_a_test_split_has_one_held_out_unless_it_was_asked_for_by_name(
    hub_like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub_like / "test.jsonl").unlink()
    monkeypatch.setattr(DatasetConfig, "is_hub", property(lambda self: True))
    dataset = DatasetConfig.model_validate({"name": str(hub_like), "eval_size": 50, "revision": "abc"})
    loaded = sources.load(dataset)
    assert (loaded.tables["train"].num_rows, loaded.tables["test"].num_rows) == (450, 50)
    assert "held out of train" in loaded.warnings[0]
    with pytest.raises(DataError, match="has no split 'tset'"):
        sources.load(dataset.model_copy(update={"eval_split": "tset"}))
