"""PEFT's published settings: the shapes of adapter_config.json, and folders of its method comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import causal_task, lora_ns, write_config

from lora_ns.config import check, load_config, merge, read_method, with_method
from lora_ns.config.importers.peft_comparison import import_experiment
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.errors import ConfigError
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.train import train

COMMON: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "inference_mode": False,
    "revision": None,
    "task_type": None,
}
LAYERS = {"layers_pattern": None, "layers_to_transform": None, "modules_to_save": None, "target_modules": None}
LORA = {
    "alpha_pattern": {},
    "rank_pattern": {},
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "layer_replication": None,
    "loftq_config": {},
    "lora_alpha": 64,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "r": 32,
    "use_dora": False,
    "use_rslora": False,
    **LAYERS,
}
OF_A_3B_MODEL = {"num_attention_heads": 24, "num_layers": 28, "num_transformer_submodules": 1, "token_dim": 3072}
PROMPT = {"prompt_tuning_init": "SAMPLE_VOCAB", "prompt_tuning_init_text": None, "tokenizer_kwargs": None}

SHAPES: dict[str, dict[str, Any]] = {
    "LORA": LORA,
    "DORA": {**LORA, "peft_type": "LORA", "use_dora": True},
    "PREFIX_TUNING": {**OF_A_3B_MODEL, "encoder_hidden_size": 3072, "num_virtual_tokens": 200, "prefix_projection": False},
    "PROMPT_TUNING": {**OF_A_3B_MODEL, **PROMPT, "num_virtual_tokens": 200, "tokenizer_name_or_path": None},
    "IA3": {
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "feedforward_modules": None,
        "init_ia3_weights": True,
        "modules_to_save": None,
        "target_modules": None,
    },
    "VERA": {
        "bias": "none",
        "d_initial": 0.1,
        "fan_in_fan_out": False,
        "init_weights": True,
        "projection_prng_key": 0,
        "r": 256,
        "save_projection": True,
        "vera_dropout": 0.0,
        **LAYERS,
    },
    "ADALORA": {
        **LORA,
        "beta1": 0.85,
        "beta2": 0.85,
        "deltaT": 1,
        "init_r": 64,
        "lora_alpha": 8,
        "orth_reg_weight": 0.5,
        "r": 8,
        "rank_pattern": None,
        "target_r": 32,
        "tfinal": 500,
        "tinit": 200,
        "total_step": 5000,
    },
    "OFT": {
        "alpha_pattern": {},
        "rank_pattern": {},
        "bias": "none",
        "block_share": False,
        "coft": False,
        "eps": 6e-5,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "init_weights": True,
        "module_dropout": 0.0,
        **LAYERS,
        "oft_block_size": 0,
        "r": 32,
        "target_modules": ["q_proj", "v_proj"],
    },
    "LOHA": {
        "alpha": 64,
        "alpha_pattern": {},
        "rank_pattern": {},
        "exclude_modules": None,
        "init_weights": True,
        "module_dropout": 0.0,
        "r": 32,
        "rank_dropout": 0.0,
        "use_effective_conv2d": False,
        **LAYERS,
        "target_modules": ["q_proj", "v_proj"],
    },
    "LN_TUNING": {"exclude_modules": None, "modules_to_save": None, "target_modules": None},
}
"""As the experiments in huggingface/peft, method_comparison/MetaMathQA have them (Apache-2.0), for Llama 3.2 3B."""


def shape(name: str) -> dict[str, Any]:
    return {"peft_type": name, **COMMON, **SHAPES[name]}


@pytest.fixture(scope="module")
def wide(tiny_causal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for the published ranks."""
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "wide"
    shutil.copytree(tiny_causal, folder)
    config = LlamaConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_a_published_adapter_config_runs_unchanged(workplace: Path, wide: Path, name: str) -> None:
    published = shape(name)
    Path("adapter_config.json").write_text(json.dumps(published))
    raw = merge(causal_task(wide), {"training": {"max_steps": 2}})
    config = check({**raw, "peft": {"adapter_config": "adapter_config.json"}}, "test")
    store = Store()
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    folder = train(Run(config, store), quiet=True)
    assert read_record(folder)["parameters"]["trainable"] > 0
    saved = json.loads((folder / "adapter_config.json").read_text())
    for key, value in published.items():
        if value is None or key in (*COMMON, *OF_A_3B_MODEL) or key not in saved:
            continue
        same = sorted(saved[key]) == sorted(value) if isinstance(value, list) else saved[key] == value
        assert same, f"{key}: {value!r} became {saved[key]!r}"
    settled = store.run_file(Run(config, store).name)
    Run(config, store).write_file()
    assert Run(load_config(settled), store).name == Run(config, store).name, "the run file says the same again"


def test_a_key_that_this_peft_does_not_know_is_an_error_where_it_says_something(workplace: Path, wide: Path) -> None:
    Path("a.json").write_text(json.dumps({**shape("OFT"), "rank_pattern": {"q_proj": 4}}))
    with pytest.raises(ConfigError, match="rank_pattern: not a setting of method 'oft'"):
        check({**causal_task(wide), "peft": {"adapter_config": "a.json"}}, "test")
    Path("b.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is not a PEFT adapter_config\.json"):
        check({**causal_task(wide), "peft": {"adapter_config": "b.json"}}, "test")


def test_a_method_file_finds_an_adapter_config_beside_itself(workplace: Path, wide: Path) -> None:
    Path("methods").mkdir()
    Path("methods/adapter_config.json").write_text(json.dumps(shape("LORA")))
    write_config(Path("methods/published.yaml"), {"peft": {"adapter_config": "adapter_config.json"}})
    config = check(with_method(causal_task(wide), read_method(Path("methods/published.yaml"))), "test")
    assert (config.method, config.peft.fields["r"]) == ("published", 32)
    assert config.peft.fields["target_modules"] is None, "PEFT's own default, not ours"


# -- folders of the method comparison ----------------------------------------------------------------------------------


def experiment(name: str, adapter: dict[str, Any] | None, params: dict[str, Any] | None) -> Path:
    folder = Path("experiments") / name
    folder.mkdir(parents=True)
    if adapter is not None:
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
    if params is not None:
        (folder / "training_params.json").write_text(json.dumps(params))
    return folder


def test_an_experiment_becomes_a_method_file_of_what_differs(workplace: Path) -> None:
    params = {"optimizer_kwargs": {"lr": 0.005}, "batch_size": 2, "model_id": "meta-llama/Llama-3.2-3B"}
    folder = experiment("ia3/llama-3.2-3B-lr0.005", shape("IA3"), params)
    path, notes = import_experiment(folder, None)
    assert path == Path("configs/methods/ia3-llama-3.2-3B-lr0.005.yaml") and notes == []
    assert yaml.safe_load(path.read_text()) == {
        "peft": {"method": "ia3", "fan_in_fan_out": False, "init_ia3_weights": True},
        "training": {"global_batch_size": 2, "learning_rate": 0.005, "weight_decay": 0.01},
    }
    with pytest.raises(ConfigError, match="is there already"):
        import_experiment(folder, None)


@pytest.mark.parametrize(
    ("kind", "kwargs", "expected"),
    [
        ("lora-fa", {"r": 32, "lora_alpha": 64, "lr": 1e-4, "weight_decay": 0.1}, ("lora_fa", 0.1, None)),
        ("lora+", {"lr": 1e-4, "loraplus_lr_ratio": 4}, ("loraplus", 0.0, "loraplus_lr_ratio=4")),
        ("riemannian", {"lr": 1e-4, "reg": 0.01}, ("riemannian", 0.01, "reg=0.01")),
    ],
)
def test_the_optimisers_of_the_suite_are_ours(workplace: Path, kind: str, kwargs: Any, expected: Any) -> None:
    folder = experiment("lora/special", shape("LORA"), {"optimizer_type": kind, "optimizer_kwargs": kwargs})
    training = yaml.safe_load(import_experiment(folder, None)[0].read_text())["training"]
    assert (training["optim"], training["weight_decay"], training.get("optim_args")) == expected


def test_without_an_adapter_config_all_weights_are_trained(workplace: Path) -> None:
    folder = experiment("full-finetuning/lr_0.00001", None, {"optimizer_kwargs": {"lr": 1e-5}})
    content = yaml.safe_load(import_experiment(folder, None)[0].read_text())
    assert content["peft"] == {"method": "full"} and content["training"]["learning_rate"] == 1e-5


def test_what_has_no_counterpart_is_said(workplace: Path) -> None:
    params = {"init_kv_cache_prefix": "You are helpful.", "optimizer_kwargs": {"lr": 0.005}, "max_seq_length": 99}
    _, notes = import_experiment(experiment("prefix/x", shape("PREFIX_TUNING"), params), None)
    assert any("init_kv_cache_prefix" in note for note in notes)
    assert any("max_seq_length belongs to a task" in note for note in notes)
    with pytest.raises(ConfigError, match="no counterpart"):
        import_experiment(experiment("lora/y", shape("LORA"), {"optimizer_type": "Muon"}), None)
    with pytest.raises(ConfigError, match="holds neither"):
        import_experiment(experiment("lora/empty", None, None), None)


def test_the_command_line_writes_a_whole_task_that_is_valid(workplace: Path) -> None:
    folder = experiment("lora/rank32", shape("LORA"), {"max_steps": 100, "dtype": "int4"})
    done = lora_ns("import-peft-experiment", str(folder), "--task", "--output", "task.yaml")
    assert done.returncode == 0 and done.stdout.strip() == "task.yaml", done.stderr
    config = load_config(Path("task.yaml"))
    assert (config.model.quantization, config.training.max_steps, config.training.weight_decay) == ("4bit", 100, 0.1)
    assert config.training.warmup_steps == 0.1 and config.dataset.max_length == 768
    assert lora_ns("import-peft-experiment", "gone").returncode == 2
