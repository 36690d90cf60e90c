from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import causal_task, lora_ns, write_config

from lora_ns.config import RunConfig, check, merge
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.errors import ConfigError, DamagedError, DataError
from lora_ns.evaluation.infer import Subject, infer_file, load_subject, prompt_from, row_of
from lora_ns.evaluation.repl import Printer, answer, converse
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.train import train


def trained(config: RunConfig) -> Path:
    store = Store()
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    return train(Run(config, store), quiet=True)


def task(model: Path, **changes: object) -> RunConfig:
    return check(merge(causal_task(model), changes), "test")


def write_rows(path: Path, count: int) -> list[dict[str, Any]]:
    rows = [{"id": i, "question": f"What is {i % 7} plus {i % 11}{' and so on' * (i % 5)}?"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def subject(workplace: Path, tiny_causal: Path) -> Subject:
    config = task(tiny_causal)
    trained(config)
    return load_subject(Run(config, Store()))


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_answered_in_the_order_of_its_rows_each_as_if_asked_alone(subject: Subject) -> None:
    rows = write_rows(Path("in.jsonl"), 23)
    assert infer_file(subject, Path("in.jsonl"), Path("out.jsonl"), batch_size=4) == 23
    found = read(Path("out.jsonl"))
    assert [{k: row[k] for k in ("id", "question")} for row in found] == rows
    alone = [
        answer(subject.model, subject.tokenizer, prompt_from(row, subject, ""), subject.generation, None) for row in rows[:3]
    ]
    assert [[row["completion"]] for row in found[:3]] == alone
    assert not list(Path().glob("*.part"))


def test_a_text_file_gives_a_line_for_each_of_its_lines(subject: Subject) -> None:
    Path("in.txt").write_text("What is 1 plus 2?\n\nWhat is 3 plus 4?\n")
    infer_file(subject, Path("in.txt"), Path("out.txt"), batch_size=4)
    infer_file(subject, Path("in.txt"), Path("out.jsonl"), batch_size=4)
    lines = Path("out.txt").read_text().rstrip("\n").split("\n")
    assert [line.replace("\\n", "\n").replace("\\\\", "\\") for line in lines] == [
        r["completion"] for r in read(Path("out.jsonl"))
    ]


def test_going_on_answers_what_is_missing_and_nothing_twice(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that dies at any block leaves a journal; the next one asks only for the rest."""
    from lora_ns.evaluation import infer

    write_rows(Path("in.jsonl"), 30)
    infer_file(subject, Path("in.jsonl"), Path("whole.jsonl"), batch_size=1)
    asked: list[list[str]] = []
    complete = infer.complete

    def die_at_the_fourth(subject: Subject, prompts: Any, keys: Any, size: Any) -> Any:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(keys)
        return complete(subject, prompts, keys, size)

    monkeypatch.setattr(infer, "complete", die_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        infer_file(subject, Path("in.jsonl"), Path("out.jsonl"), batch_size=1)
    assert not Path("out.jsonl").exists()
    with Path("out.jsonl.part").open("a") as file:
        file.write('{"row": 3, "answ')  # what a kill in the middle of a line leaves
    before = [key for keys in asked for key in keys]

    def note(subject: Subject, prompts: Any, keys: Any, size: Any) -> Any:
        asked.append(keys)
        return complete(subject, prompts, keys, size)

    monkeypatch.setattr(infer, "complete", note)
    infer_file(subject, Path("in.jsonl"), Path("out.jsonl"), batch_size=1)
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert sorted(int(key) for keys in asked for key in keys) == list(range(30)) and len(before) == 24


def test_another_call_does_not_go_on_with_a_begun_file(subject: Subject) -> None:
    write_rows(Path("in.jsonl"), 5)
    Path("out.jsonl.part").write_text('{"call": "other"}\n')
    with pytest.raises(ConfigError, match="begun with another model, input or settings"):
        infer_file(subject, Path("in.jsonl"), Path("out.jsonl"), batch_size=4)
    assert infer_file(subject, Path("in.jsonl"), Path("out.jsonl"), batch_size=4, overwrite=True) == 5
    with pytest.raises(ConfigError, match="is there already"):
        infer_file(subject, Path("in.jsonl"), Path("out.jsonl"), batch_size=4)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("in.jsonl", '{"question": "a"}\n{"question"', "row 2: not JSON"),
        ("in.jsonl", '{"qestion": "a"}\n', "row 1: the column 'question' is missing. Did you mean 'qestion'?"),
        ("in.jsonl", "[1]\n", "expected an object"),
        ("in.jsonl", "", "holds no rows"),
        ("in.csv", "a\n", "expected a .jsonl or .txt"),
    ],
)
def test_a_file_that_cannot_be_asked_says_where(subject: Subject, name: str, content: str, expected: str) -> None:
    Path(name).write_text(content)
    with pytest.raises(DataError) as caught:
        infer_file(subject, Path(name), Path("out.jsonl"), batch_size=4)
    assert expected in str(caught.value) and not list(Path().glob("out*"))


def test_an_interrupted_file_of_1000_rows_continues_without_repeating_or_losing_a_row(workplace: Path, tiny_causal: Path) -> None:
    config = causal_task(tiny_causal)
    config["evaluation"] = {"generation": {"max_new_tokens": 12}}
    write_config(Path("task.yaml"), config)
    trained(check(config, "test"))
    write_rows(Path("in.jsonl"), 1000)
    words = ["infer", "--config", "task.yaml", "--input-file", "in.jsonl", "--batch-size", "16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_ns", *words, "--output-file", "out.jsonl"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    part, deadline = Path("out.jsonl.part"), time.monotonic() + 120
    while not (part.is_file() and part.read_bytes().count(b"\n") > 200) and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = part.read_bytes().count(b"\n") - 1
    assert 0 < kept < 1000 and not Path("out.jsonl").exists()
    assert lora_ns(*words, "--output-file", "out.jsonl").returncode == 0
    found = read(Path("out.jsonl"))
    assert [row["id"] for row in found] == list(range(1000))
    subject = load_subject(Run(check(config, "test"), Store()))
    infer_file(subject, Path("in.jsonl"), Path("once.jsonl"), batch_size=16)
    assert Path("once.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


# -- one text, a conversation ------------------------------------------------------------------------------------------


def test_what_streams_is_what_generation_gives(subject: Subject) -> None:
    """Also with a stop text that several tokens spell."""
    prompt = "Question: what is 3 plus 4?\nAnswer:"
    for stop in ([], ["a"], ["the cat"], ["\n\n"]):
        config = subject.generation.model_copy(update={"max_new_tokens": 40, "stop": stop})
        plain = answer(subject.model, subject.tokenizer, prompt, config, None)
        written: list[str] = []
        assert answer(subject.model, subject.tokenizer, prompt, config, None, written.append) == plain
        assert "".join(written) == plain[0]


def test_a_stop_text_is_held_back_until_it_is_sure(subject: Subject) -> None:
    import torch

    tokenizer, written = subject.tokenizer, []
    printer = Printer(tokenizer, ["####"], written.append)
    printer.put(torch.tensor([1, 2]))
    for token in tokenizer("7 ## 8 #### 12", add_special_tokens=False)["input_ids"]:
        printer.put(torch.tensor([token]))
        assert "###" not in "".join(written)
    printer.end()
    assert "".join(written) == "7 ## 8 "


def test_the_runs_own_template_is_applied_unless_raw(subject: Subject, tiny_causal: Path) -> None:
    row = row_of(["What is 1 plus 2?"], subject.config)
    assert prompt_from(row, subject, "") == "Question: What is 1 plus 2?\nAnswer:"
    plain = load_subject(Run(subject.config, Store()), raw=True)
    assert prompt_from({"text": "What is 1 plus 2?"}, plain, "") == "What is 1 plus 2?"
    with pytest.raises(ConfigError, match="2 given, and the config reads question"):
        row_of(["a", "b"], subject.config)


def test_columns_are_called_anew_in_a_file_and_not_in_what_is_given_by_the_configs_own_names(subject: Subject) -> None:
    data = subject.config.dataset.model_copy(
        update={"columns": {"question": "title", "title": "question"}, "prompt_template": "{title}: {question}"}
    )
    swapped = replace(subject, config=subject.config.model_copy(update={"dataset": data}))
    assert prompt_from(row_of(["T", "Q"], swapped.config), swapped, "") == "T: Q"
    Path("rows.jsonl").write_text('{"question": "T", "title": "Q"}\n')
    asked: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "lora_ns.evaluation.infer.complete", lambda subject, prompts, *_: asked.extend(prompts) or [{"completion": ""}]
        )
        infer_file(swapped, Path("rows.jsonl"), Path("out.jsonl"), batch_size=1)
    assert asked == ["T: Q"]


def test_a_conversation_remembers_what_was_said_until_it_is_reset(subject: Subject) -> None:
    from lora_ns.data.chat_template import Chat

    said: list[str] = []
    turns = converse(
        subject.model,
        subject.tokenizer,
        ["forget this\n", "/reset\n", "hello\n", "\n", "and now?\n", "/exit\n", "never\n"],
        subject.generation,
        Chat(subject.tokenizer, "tulu"),
        said.append,
        system="be brief",
    )
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn["content"] for turn in turns if turn["role"] == "user"] == ["hello", "and now?"]


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_the_adapter_the_merged_model_and_the_base_can_each_be_asked(workplace: Path, tiny_causal: Path) -> None:
    import torch

    from lora_ns.merging.merge import merge as merge_stage

    config, store = task(tiny_causal, training={"max_steps": 8}), Store()
    folder = trained(config)
    merged = merge_stage(Run(config, store))
    ids = torch.tensor([[5, 6, 7]])

    def logits(**which: Any) -> Any:
        subject = load_subject(Run(config, store), **which)
        with torch.inference_mode():
            return subject.model(input_ids=ids).logits

    own = logits()
    torch.testing.assert_close(logits(adapter=folder), own)
    torch.testing.assert_close(logits(adapter=merged), own, atol=1e-4, rtol=1e-4)
    assert (logits(base=True) - own).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="neither a PEFT adapter nor a model"):
        load_subject(Run(config, store), adapter=workplace)


def test_a_damaged_adapter_or_merged_model_is_never_asked(workplace: Path, tiny_causal: Path) -> None:
    from lora_ns.merging.merge import merge as merge_stage

    config, store = task(tiny_causal, training={"max_steps": 1}), Store()
    folder, merged = trained(config), merge_stage(Run(config, Store()))
    elsewhere = merge_stage(Run(config, store), output=workplace / "model")
    load_subject(Run(config, store), adapter=elsewhere)
    for model in (merged, elsewhere):
        weights = model / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(DamagedError, match=rf"{model.name} is damaged: model\.safetensors has sha256"):
            load_subject(Run(config, store), adapter=model)
    with pytest.raises(DamagedError, match=r"model\.safetensors has sha256"):
        merge_stage(Run(config, store))
    (folder / "record.json").unlink()
    with pytest.raises(DamagedError, match=r"record\.json is missing"):
        load_subject(Run(config, store), adapter=folder)


def test_without_an_adapter_it_says_how_to_make_one(workplace: Path, tiny_causal: Path) -> None:
    with pytest.raises(DataError, match="lora-ns train"):
        load_subject(Run(task(tiny_causal), Store()))


@pytest.fixture
def labelled(workplace: Path, tiny_encoder: Path) -> RunConfig:
    rows = [{"a": f"text {i}", "b": "other", "label": i % 2} for i in range(16)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "task_name": "pairs",
        "task_type": "classification",
        "model": {"name_or_path": str(tiny_encoder)},
        "peft": {"method": "lora", "r": 2, "target_modules": ["query", "value"]},
        "dataset": {"name": {"train": "rows.jsonl", "test": "rows.jsonl"}, "text_columns": ["a", "b"], "labels": ["no", "yes"]},
        "training": {"max_steps": 2, "global_batch_size": 8},
    }
    write_config(Path("pairs.yaml"), content)
    config = check(content, "test")
    trained(config)
    return config


def test_a_classifier_gives_label_and_probabilities(labelled: RunConfig) -> None:
    done = lora_ns("infer", "--config", "pairs.yaml", "--text", "text 1", "--text", "other")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {label for label, _ in lines} == {"no", "yes"}
    assert sum(float(p) for _, p in lines) == pytest.approx(1, abs=1e-3) and float(lines[0][1]) >= float(lines[1][1])
    subject = load_subject(Run(labelled, Store()))
    infer_file(subject, Path("rows.jsonl"), Path("out.jsonl"), batch_size=4)
    found = read(Path("out.jsonl"))
    assert [row["label"] for row in found] == [i % 2 for i in range(16)]  # what stood in the file
    assert all(row["predicted_label"] in ("no", "yes") for row in found)
    assert found[1]["probabilities"][lines[0][0]] == pytest.approx(float(lines[0][1]), abs=1e-3)
    with pytest.raises(ConfigError, match="no trained head"):
        load_subject(Run(labelled, Store()), base=True)


def test_the_command_line_asks_one_text_with_an_adapters_folder(workplace: Path, tiny_causal: Path) -> None:
    write_config(Path("task.yaml"), causal_task(tiny_causal))
    folder = trained(task(tiny_causal))
    done = lora_ns("infer", "--config", "task.yaml", "--adapter", str(folder), "--text", "What is 1 plus 2?")
    assert done.returncode == 0, done.stderr
    subject = load_subject(Run(task(tiny_causal), Store()))
    prompt = prompt_from({"question": "What is 1 plus 2?"}, subject, "")
    assert done.stdout == answer(subject.model, subject.tokenizer, prompt, subject.generation, None)[0] + "\n"
    wrong = lora_ns("infer", "--config", "task.yaml")
    assert wrong.returncode == 2 and "one of --text" in wrong.stderr
