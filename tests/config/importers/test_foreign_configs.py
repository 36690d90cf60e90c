"""Configs of axolotl and LLaMA-Factory as ours: what is carried, what is named as left out, and that the result runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import lora_ns, sums, write_config

from lora_ns.config import RunConfig, check
from lora_ns.config.importers.axolotl import from_axolotl
from lora_ns.config.importers.llama_factory import from_llama_factory
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.errors import ConfigError, LoraNsError
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.train import train

AXOLOTL: dict[str, Any] = {
    "base_model": "meta-llama/Llama-3.2-1B",
    "load_in_4bit": True,
    "adapter": "qlora",
    "lora_r": 32,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_linear": True,
    "datasets": [{"path": "teknium/GPT4-LLM-Cleaned", "type": "alpaca"}],
    "val_set_size": 0.05,
    "sequence_len": 2048,
    "sample_packing": True,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "num_epochs": 4,
    "optimizer": "paged_adamw_32bit",
    "lr_scheduler": "cosine",
    "learning_rate": 2e-4,
    "warmup_steps": 10,
    "weight_decay": 0.01,
    "adam_beta2": 0.95,
    "bf16": "auto",
    "tf32": False,
    "gradient_checkpointing": True,
    "flash_attention": True,
    "wandb_project": None,
    "logging_steps": 1,
    "output_dir": "./out",
    "special_tokens": {"pad_token": "<|end_of_text|>"},
}

FACTORY: dict[str, Any] = {
    "model_name_or_path": "Qwen/Qwen2.5-1.5B-Instruct",
    "trust_remote_code": True,
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 16,
    "lora_target": "q_proj,v_proj",
    "dataset": "mine",
    "template": "qwen",
    "cutoff_len": 1024,
    "max_samples": 30,
    "preprocessing_num_workers": 16,
    "output_dir": "saves/mine",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "learning_rate": 1e-4,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "bf16": True,
    "val_size": 0.1,
    "packing": False,
    "resume_from_checkpoint": None,
}


def axolotl(**changes: Any) -> tuple[RunConfig, list[str]]:
    """AXOLOTL with these changes, imported and checked."""
    content, notes = from_axolotl(write_config(Path("their.yml"), {**AXOLOTL, **changes}))
    return check(content, "test"), notes


def factory(info: dict[str, Any] | None = None, **changes: Any) -> tuple[RunConfig, list[str]]:
    """FACTORY with these changes and a dataset_info.json, imported and checked."""
    entries = {"mine": {"file_name": "mine.json"}} if info is None else info
    Path("data").mkdir(exist_ok=True)
    Path("data/dataset_info.json").write_text(json.dumps(entries))
    content, notes = from_llama_factory(write_config(Path("theirs/sft.yaml"), {**FACTORY, **changes}))
    return check(content, "test"), notes


def said(notes: list[str], *words: str) -> bool:
    """Whether one remark has all of the words."""
    return any(all(word in note for word in words) for note in notes)


# -- axolotl -----------------------------------------------------------------------------------------------------------


def test_an_axolotl_config_is_carried_key_by_key(workplace: Path) -> None:
    config, notes = axolotl()
    model, data, training = config.model, config.dataset, config.training
    assert (model.name_or_path, model.quantization, model.dtype) == ("meta-llama/Llama-3.2-1B", "4bit", "bfloat16")
    wanted = {"r": 32, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear"}
    assert config.peft.method == "lora" and wanted.items() <= config.peft.fields.items()
    assert (data.name, data.format, data.eval_size) == ("teknium/GPT4-LLM-Cleaned", "alpaca", 0.05)
    assert data.max_length == 2048 and config.seed == 42
    assert (training.global_batch_size, training.per_device_train_batch_size) == (8, 2)
    assert (training.num_train_epochs, training.learning_rate, training.warmup_steps) == (4, 2e-4, 10)
    assert (training.optim, training.weight_decay) == ("paged_adamw_32bit", 0.01)
    assert training.arguments["gradient_checkpointing"] and training.arguments["adam_beta2"] == 0.95
    assert said(notes, "sample_packing", "not packed") and said(notes, "special_tokens", "left out")
    assert said(notes, "flash_attention", "output_dir", "logging_steps", "not what it computes")
    assert not said(notes, "wandb_project"), "an empty key says nothing"


def test_what_axolotl_leaves_unsaid_keeps_axolotls_own_default(workplace: Path) -> None:
    minimal = {"base_model": "m/m", "datasets": [{"path": "d/d", "type": "alpaca"}], "learning_rate": 1e-5}
    content, notes = from_axolotl(write_config(Path("minimal.yml"), minimal))
    assert content["peft"] == {"method": "full"}
    training = content["training"]
    assert (training["optim"], training["lr_scheduler_type"]) == ("adamw_torch_fused", "cosine")
    assert (training["num_train_epochs"], training["global_batch_size"], training["warmup_steps"]) == (1.0, 1, 0.03)
    assert content["dataset"]["max_length"] == 512 and said(notes, "val_set_size", "held out here")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"type": "completion", "field": "body"}, {"format": "text", "text_columns": ["body"]}),
        ({"type": "sharegpt"}, {"format": "sharegpt", "chat_template": "tokenizer"}),
        ({"type": "chat_template"}, {"format": "messages", "columns": {}}),
        (
            {"type": "chat_template", "field_messages": "turns", "message_field_role": "from", "message_field_content": "value"},
            {"format": "sharegpt", "columns": {"conversations": "turns"}},
        ),
        (
            {"type": {"field_instruction": "q", "field_output": "a", "format": "[INST] {instruction} [/INST]"}},
            {"format": "plain", "prompt_template": "[INST] {q} [/INST]", "response_template": "{a}"},
        ),
        ({"type": "alpaca", "name": "main", "split": "train_sft"}, {"subset": "main", "train_split": "train_sft"}),
    ],
)  # fmt: skip
def test_axolotls_kinds_of_rows(workplace: Path, entry: dict[str, Any], expected: dict[str, Any]) -> None:
    data = axolotl(datasets=[{"path": "some/set", **entry}])[0].dataset.model_dump()
    assert {key: data[key] for key in expected} == expected


def test_what_axolotl_puts_otherwise_is_said(workplace: Path) -> None:
    Path("d.json").write_text("[]")
    entry = {"path": "json", "data_files": ["d.json"], "ds_type": "json", "type": "alpaca:chat"}
    config, notes = axolotl(datasets=[entry], default_system_message="You are a pirate.")
    assert config.dataset.file_kind is None and config.dataset.name == ["d.json"]
    for words in ("default_system_message", "'alpaca:chat' is put in another wording", "right behind `### Response:`"):
        assert said(notes, words), words


def test_axolotls_settings_that_mean_another_word_here(workplace: Path) -> None:
    config, _ = axolotl(adapter="lora", load_in_4bit=False, load_in_8bit=True, loraplus_lr_ratio=16, optimizer="adamw_torch")
    assert (config.model.quantization, config.training.optim) == ("8bit", "loraplus")
    assert config.training.arguments["optim_args"] == "loraplus_lr_ratio=16"
    config, notes = axolotl(optimizer="came_pytorch", lr_scheduler="rex", lora_target_linear=None)
    assert (config.training.optim, config.training.lr_scheduler_type) == ("adamw_torch", "cosine")
    assert said(notes, "came_pytorch", "adamw_torch") and said(notes, "rex", "cosine")
    assert config.peft.fields["target_modules"] is None, "PEFT's own, as there"


def test_several_local_files_are_one_list_and_other_sets_are_named_as_lost(workplace: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        Path(name).write_text("{}\n")
    two = [{"path": "a.jsonl", "type": "alpaca"}, {"path": "b.jsonl", "type": "alpaca"}]
    assert axolotl(datasets=two)[0].dataset.name == ["a.jsonl", "b.jsonl"]
    config, notes = axolotl(datasets=[{"path": "x/y", "type": "alpaca"}, {"path": "z/z", "type": "completion"}])
    assert config.dataset.name == "x/y" and said(notes, "datasets", "only the first of 2", "z/z")
    split = axolotl(datasets=two[:1], test_datasets=[{"path": "c.jsonl", "type": "alpaca"}], val_set_size=0)[0]
    assert split.dataset.name == {"train": ["a.jsonl"], "test": ["c.jsonl"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rl": "dpo"}, "'dpo' is not trained here"),
        ({"base_model": None}, "is this a config of axolotl"),
        ({"adapter": "llama-adapter"}, "expected lora, qlora or nothing"),
        ({"micro_batch_size": "two"}, "micro_batch_size: expected a whole number"),
        ({"datasets": "mine"}, "datasets: expected a list"),
        ({"datasets": [{"path": "x/y", "type": "input_output"}]}, "dataset.response_template: is missing"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(workplace: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        axolotl(**changes)


# -- LLaMA-Factory -----------------------------------------------------------------------------------------------------


def test_a_llama_factory_config_is_carried_key_by_key(workplace: Path) -> None:
    config, notes = factory()
    model, data, training = config.model, config.dataset, config.training
    assert (model.name_or_path, model.dtype, model.trust_remote_code) == ("Qwen/Qwen2.5-1.5B-Instruct", "bfloat16", False)
    wanted = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
    assert wanted.items() <= config.peft.fields.items(), "alpha is twice the rank where they say nothing"
    assert (data.name, data.format, data.chat_template) == ("data/mine.json", "alpaca", "tokenizer")
    assert (data.max_length, data.max_samples, data.eval_size) == (1024, 30, 0.1)
    assert (training.global_batch_size, training.learning_rate, training.warmup_steps) == (8, 1e-4, 0.1)
    assert training.arguments["gradient_checkpointing"] is True, "on unless they switch it off"
    assert said(notes, "template: qwen") and said(notes, "max_samples", "seeded sample")
    assert said(notes, "trust_remote_code") and said(notes, "preprocessing_num_workers", "do_train", "output_dir")
    assert not said(notes, "packing", "not packed")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"columns": {"prompt": "q", "response": "a"}},
            {"format": "alpaca", "columns": {"instruction": "q", "output": "a", "input": None}},
        ),
        ({"formatting": "sharegpt"}, {"format": "sharegpt", "columns": {}}),
        (
            {"formatting": "sharegpt", "columns": {"messages": "turns"}, "tags": {"role_tag": "role", "content_tag": "content"}},
            {"format": "messages", "columns": {"messages": "turns"}},
        ),
        ({"hf_hub_url": "some/set", "subset": "de", "split": "dev"}, {"name": "some/set", "subset": "de", "train_split": "dev"}),
    ],
)  # fmt: skip
def test_llama_factorys_kinds_of_rows(workplace: Path, entry: dict[str, Any], expected: dict[str, Any]) -> None:
    data = factory({"mine": {"file_name": "mine.json", **entry}})[0].dataset.model_dump()
    assert {key: data[key] for key in expected} == expected


def test_llama_factorys_other_ways_to_train(workplace: Path) -> None:
    info = {"mine": {"file_name": "mine.json", "columns": {"prompt": "text"}}}
    config, _ = factory(info, stage="pt", lora_target="all", pissa_init=True, disable_gradient_checkpointing=True)
    assert (config.dataset.format, config.dataset.text_columns) == ("text", ["text"])
    assert (config.peft.fields["target_modules"], config.peft.fields["init_lora_weights"]) == ("all-linear", "pissa_niter_16")
    assert "gradient_checkpointing" not in config.training.arguments
    assert factory(finetuning_type="full")[0].peft.method == "full"
    assert factory(quantization_bit=4)[0].model.quantization == "4bit"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage": "dpo"}, "'dpo' is not trained here"),
        ({"dataset": "mein"}, "'mein' is not in data/dataset_info.json. Did you mean 'mine'"),
        ({"finetuning_type": "freeze"}, "'freeze' is not carried over"),
        ({"dataset_dir": "nowhere"}, "there is no nowhere/dataset_info.json"),
        ({"lora_rank": 2.5}, "lora_rank: expected a whole number, found 2.5"),
        ({"model_name_or_path": None}, "is this a config of LLaMA-Factory"),
    ],
)
def test_what_llama_factory_cannot_bring_is_refused(workplace: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        factory(**changes)


def test_preferences_and_broken_lists_of_sets_are_refused(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="preferences are not trained on"):
        factory({"mine": {"file_name": "mine.json", "ranking": True}})
    Path("data/dataset_info.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected names and what each says"):
        from_llama_factory(Path("theirs/sft.yaml"))


# -- the result --------------------------------------------------------------------------------------------------------


def rows() -> list[dict[str, str]]:
    """Instructions in alpaca's columns."""
    return [{"instruction": row["question"], "input": "", "output": row["answer"]} for row in sums(40)]


SMALL = {"training.max_steps": 2, "model.dtype": "float32", "dataset.max_length": 128}


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
def test_an_imported_config_trains_on_a_tiny_model(workplace: Path, tiny_causal: Path, tool: str) -> None:
    Path("data").mkdir()
    Path("data/mine.json").write_text(json.dumps(rows()))
    Path("data/dataset_info.json").write_text(json.dumps({"mine": {"file_name": "mine.json"}}))
    if tool == "axolotl":
        theirs = {**AXOLOTL, "base_model": str(tiny_causal), "datasets": [{"path": "data/mine.json", "type": "alpaca"}]}
        theirs |= {"adapter": "lora", "load_in_4bit": False, "optimizer": "adamw_torch"}
        content, _ = from_axolotl(write_config(Path("their.yml"), theirs), SMALL)
    else:
        theirs = {**FACTORY, "model_name_or_path": str(tiny_causal)}
        path = write_config(Path("their.yaml"), theirs)
        content, _ = from_llama_factory(path, {**SMALL, "dataset.chat_template": "tulu"})
    config, store = check(content, "test"), Store()
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    record = read_record(train(Run(config, store), quiet=True))
    assert record["steps"] == 2 and record["parameters"]["trainable"] > 0


def test_the_command_writes_a_valid_config_with_its_remarks_above(workplace: Path) -> None:
    write_config(Path("qlora.yml"), AXOLOTL)
    done = lora_ns("import", "axolotl", "qlora.yml", "training.max_steps=5")
    assert done.returncode == 0 and done.stdout.strip() == "configs/qlora.yaml", done.stderr
    text = Path("configs/qlora.yaml").read_text()
    assert text.startswith("# From axolotl: qlora.yml.\n# - ") and "sample_packing" in done.stderr
    assert yaml.safe_load(text)["training"]["max_steps"] == 5
    assert lora_ns("validate", "configs/qlora.yaml").returncode == 0
    again = lora_ns("import", "axolotl", "qlora.yml")
    assert again.returncode == 2 and "--force" in again.stderr
    wrong = lora_ns("import", "llamafactory", "qlora.yml", "--force")
    assert wrong.returncode == 2 and "is this a config of LLaMA-Factory" in wrong.stderr


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "base_model: 3\ndatasets: 4\n", "model_name_or_path: [1]\n"])
def test_no_file_of_theirs_ends_in_a_traceback(workplace: Path, content: str) -> None:
    Path("odd.yml").write_text(content)
    for read in (from_axolotl, from_llama_factory):
        with pytest.raises(LoraNsError):
            read(Path("odd.yml"))
