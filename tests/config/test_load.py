from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lora_ns.config import load_config, parse_overrides, parse_yaml, template_columns, write_yaml
from lora_ns.config.library_fields import described
from lora_ns.errors import ConfigError

TASK = {
    "task_name": "t",
    "task_type": "causal_lm",
    "model": {"name_or_path": "org/model"},
    "peft": {"method": "lora", "r": 8},
    "dataset": {"name": "org/data", "prompt_template": "Q: {q}", "response_template": " {a}"},
    "training": {"learning_rate": 2e-4},
    "evaluation": {"benchmarks": ["gsm8k"]},
}


def written(tmp_path: Path, **sections: object) -> Path:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({**TASK, **sections}))
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return caught.value.problems


def test_a_number_written_2e_4_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({**TASK, "training": None}).replace("training: null", "training: {learning_rate: 2e-4}"))
    assert "2e-4" in path.read_text()
    assert load_config(path).training.learning_rate == 0.0002


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(TASK).replace("\n", "\r\n").encode())
    assert load_config(path).peft.fields["r"] == 8


def test_all_faults_come_at_once_with_file_key_path_and_nearest_name(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        model={"name_or_pth": "x"},
        peft={"method": "lora", "lora_alpah": 3, "lora_dropout": "much"},
        training={"learning_rate": "fast", "weigth_decay": 0.1, "output_dir": "x"},
        seed=-1,
    )
    found = faults(path)
    assert all(line.startswith(f"{path}: ") for line in found)
    text = "\n".join(found)
    for expected in (
        "model.name_or_pth: there is no such key. Did you mean 'name_or_path'?",
        "model.name_or_path: is missing.",
        "peft.lora_alpah: not a setting of method 'lora'. Did you mean 'lora_alpha'?",
        "peft.lora_dropout: expected a number, found 'much'.",
        "training.weigth_decay: not a field of transformers.TrainingArguments. Did you mean 'weight_decay'?",
        "training.output_dir: not to be set",
        "training.learning_rate: expected a number, found 'fast'.",
        "seed: expected greater than or equal to 0, found -1.",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"peft": {"method": "lorra"}}, "there is no method 'lorra'. Did you mean 'lora'?"),
        ({"peft": {"method": "none", "r": 4}}, "peft.r: method 'none'"),
        ({"peft": {"method": "prefix_tuning"}, "training": {"gradient_checkpointing": True}}, "key-value cache"),
        ({"peft": {"method": "prefix_tuning"}, "training": {"activation_checkpointing": True}}, "key-value cache"),
        ({"peft": {"method": "full"}, "model": {"name_or_path": "m", "quantization": "4bit"}}, "cannot be trained"),
        ({"dataset": {"name": "d", "prompt_template": "Q"}}, "dataset.response_template: is missing"),
        ({"dataset": {"name": "d", "response_template": "no column"}}, "names no column"),
        ({"dataset": {"name": "d", "response_template": "{a"}}, "dataset.response_template: "),
        ({"task_type": "classification"}, "dataset.labels: is missing"),
        ({"task_type": "regresion"}, "task_type: expected"),
        ({"evaluation": {"generation": {"max_tokens": 3}}}, "there is no decoding setting 'max_tokens'"),
        ({"evaluation": {"generation": {"num_samples": 3}}}, "do_sample"),
        ({"training": {"bf16": True, "fp16": True}}, "choose one"),
        ({"training": {"gradient_accumulation_steps": 4}}, "derived from training.global_batch_size"),
        ({"peft": {"r": 8, "lora_r": 4}}, "'r' says the same"),
    ],
)
def test_impossible_settings_are_refused_with_the_reason(tmp_path: Path, sections: dict, expected: str) -> None:
    assert expected in "\n".join(faults(written(tmp_path, **sections)))


def test_a_key_given_twice_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("task_name: a\ntask_type: causal_lm\ntask_name: b\n")
    assert faults(path) == [f"{path}, line 3: not valid YAML: the key 'task_name' is given twice"]


@pytest.mark.parametrize(("text", "expected"), [("", "found empty"), ("- a", "found a list"), ("a: [", "not valid YAML")])
def test_a_file_without_keys_says_so(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    assert expected in faults(path)[0]


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path)
    assert "Did you mean 'task.yaml'?" in faults(tmp_path / "tsak.yaml")[0]


def test_aliases_stand_for_our_names(tmp_path: Path) -> None:
    config = load_config(
        written(
            tmp_path,
            peft={"method": "prefix-tuning", "num_prefix_tokens": 7},
            training={"lr": 1e-3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8},
        )
    )
    assert (config.peft.method, config.peft.fields) == ("prefix_tuning", {"num_virtual_tokens": 7})
    assert (config.training.learning_rate, config.training.global_batch_size) == (1e-3, 32)


def test_a_peft_adapter_config_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 64, "lora_dropout": 0, "eva_config": None})
    )
    config = load_config(written(tmp_path, peft={"adapter_config": "adapter_config.json", "lora_alpha": 4}))
    assert config.peft.method == "lora"
    assert config.peft.fields == {"r": 64, "lora_dropout": 0.0, "lora_alpha": 4, "target_modules": None}


def test_overrides_reach_every_section_and_are_typed(tmp_path: Path) -> None:
    overrides = parse_overrides(["training.learning_rate=1e-4", "peft.r=2", "seed=3", "peft.target_modules=[q_proj]"])
    config = load_config(written(tmp_path), overrides)
    assert (config.training.learning_rate, config.seed) == (1e-4, 3)
    assert config.peft.fields == {"r": 2, "target_modules": ["q_proj"], "lora_alpha": 4}


def test_a_template_on_the_command_line_is_text_and_not_a_mapping() -> None:
    texts = {"prompt_template": "Q: {question}", "response_template": "{answer}"}
    overrides = parse_overrides([f"dataset.{key}={text}" for key, text in texts.items()])
    assert overrides["dataset"] == texts
    assert parse_overrides(["dataset.columns={a: b}"])["dataset"]["columns"] == {"a": "b"}


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.learning_rate=1e-4"):
        parse_overrides(["learning_rate"])


def test_a_method_file_replaces_the_peft_section(tmp_path: Path) -> None:
    method = tmp_path / "tiny_prompt.yaml"
    method.write_text("peft: {method: prompt_tuning, num_virtual_tokens: 4}\ntraining: {learning_rate: 0.5}\n")
    config = load_config(written(tmp_path), method=method)
    assert (config.method, config.peft.fields) == ("tiny_prompt", {"num_virtual_tokens": 4})
    assert config.training.learning_rate == 0.5


def test_every_method_that_peft_registers_is_known_with_the_fields_of_its_class() -> None:
    from dataclasses import fields

    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    assert {str(name.value).lower() for name in PEFT_TYPE_TO_CONFIG_MAPPING} == set(described("peft"))
    for name, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        theirs = {field.name for field in fields(config_class) if field.init}
        assert theirs <= set(described("peft")[str(name.value).lower()]), name


def test_a_list_stands_for_a_tuple_of_pefts(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, peft={"method": "lora", "layer_replication": [[0, 2], [1, 2]]}))
    assert config.peft.fields["layer_replication"] == [[0, 2], [1, 2]]


def test_the_training_arguments_are_those_of_transformers() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments

    assert {field.name for field in fields(TrainingArguments) if field.init} <= set(
        described("transformers")["TrainingArguments"]
    )


def test_a_written_config_reads_back_equal() -> None:
    value = {"a": 2e-5, "b": "1e-4", "c": " padded", "d": "line\nline", "e": [True, None, 0.1], "f": "no", "g": "{x}: y"}
    assert parse_yaml(write_yaml(value)) == value


def test_template_columns_are_found_and_braces_can_be_written() -> None:
    assert template_columns("{a} {{literal}} {b} {a}") == ("a", "b")
    with pytest.raises(ValueError, match="columns in braces"):
        template_columns("{}")


def test_loading_a_config_imports_neither_torch_nor_transformers() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from lora_ns.config import load_config; from lora_ns.experiment.study import load_experiment;"
        "bad = {'torch', 'transformers', 'peft', 'datasets', 'pandas'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
