"""Pairs of settings that are refused before any work, and what is taken or advised where nothing is said."""

from __future__ import annotations

from typing import Any

import pytest

from lora_ns.config import RunConfig, check, merge
from lora_ns.config.method_constraints import learns_a_prompt, optimizers, saves_head, why_not_merged
from lora_ns.config.recommendations import departures
from lora_ns.errors import ConfigError
from lora_ns.models.machine import check_machine, uses_bitsandbytes

TASK: dict[str, Any] = {
    "task_name": "t",
    "task_type": "causal_lm",
    "model": {"name_or_path": "org/model"},
    "peft": {"method": "lora"},
    "dataset": {"name": "org/data", "response_template": " {a}"},
}
LABELLED = {"task_type": "classification", "dataset": {"name": "org/data", "text_columns": ["a"], "labels": ["x", "y"]}}


def config(**sections: Any) -> RunConfig:
    return check({**TASK, **sections}, "t")


def peft(method: str = "lora", **fields: Any) -> dict[str, Any]:
    return {"peft": {"method": method, **fields}}


def base(**fields: Any) -> dict[str, Any]:
    return {"model": {"name_or_path": "org/model", **fields}}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({**peft("prefix_tuning"), "training": {"gradient_checkpointing": True}}, "key-value cache"),
        ({**peft("cartridge"), "training": {"gradient_checkpointing": True}}, "key-value cache"),
        ({**peft("full"), **base(quantization="8bit")}, "cannot be trained"),
        ({**peft("loha"), **base(quantization="4bit")}, "cannot read quantised weights"),
        ({**peft(use_dora=True), **base(quantization="8bit")}, "length of every weight column"),
        ({**peft(init_lora_weights="pissa"), **base(quantization="4bit")}, "lose to rounding"),
        ({**peft(init_lora_weights="lora_ga"), **base(quantization="8bit")}, "lose to rounding"),
        ({**peft(init_lora_weights="loftq"), **base(quantization="8bit")}, "makes up for 4-bit rounding"),
        (
            {**peft(init_lora_weights="loftq", loftq_config={"loftq_iter": 5}), **base(quantization="4bit")},
            "loftq_bits 4 and loftq_iter 1",
        ),
        (peft(init_lora_weights="pissa", use_dora=True), "with peft.use_dora"),
        (peft(init_lora_weights="olora", use_rslora=True, rank_pattern={"q": 2}), "scaled by the root of its own rank"),
        (peft(calibration_rows=8), "look at data"),
        (peft(init_lora_weights="eva", calibration_rows=0), "expected more than 0"),
        (peft("vera", calibration_rows=8), "not a setting of method 'vera'"),
        (peft("cpt", cpt_token_ids=[1, 2], cpt_tokens_type_mask=[1, 2]), "multiple of 4"),
        ({**peft("trainable_tokens", token_indices=[1]), **LABELLED}, "cannot hold the trained head"),
        ({**peft("adaption_prompt"), **LABELLED}, "cannot hold the trained head"),
        ({"training": {"optim": "adamw_torhc"}}, "Did you mean 'adamw_torch'?"),
        ({**peft("vera"), "training": {"optim": "loraplus"}}, "LoRA's two matrices apart"),
        ({**peft(use_dora=True), "training": {"optim": "lora_fa"}}, "LoRA's product alone"),
        ({**peft("full"), **base(dtype="float16"), "training": {"fp16": True}}, "fp16 scales float32"),
        ({"training": {"bf16": True, "fp16": True}}, "choose one"),
    ],
)
def test_an_impossible_pair_is_refused_with_the_reason(sections: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**sections)
    assert expected in str(caught.value)


def test_what_the_rules_know_of_methods_comes_from_pefts_own_classes() -> None:
    prompts = {"prefix_tuning", "prompt_tuning", "p_tuning", "multitask_prompt_tuning", "cpt", "cartridge"}
    assert all(learns_a_prompt(method) and why_not_merged(method) for method in prompts)
    assert not learns_a_prompt("lora") and why_not_merged("lora") is None and why_not_merged("full") is None
    assert saves_head("lora") and saves_head("prompt_tuning") and not saves_head("xlora")
    assert {"adamw_torch", "paged_adamw_8bit", "lora_fa", "loraplus"} <= set(optimizers())


# -- what holds where nothing is said ----------------------------------------------------------------------------------


def test_lora_without_settings_has_the_usual_ones() -> None:
    settled = config()
    assert settled.peft.fields == {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    assert (settled.training.learning_rate, settled.training.lr_scheduler_type) == (2e-4, "cosine")
    assert settled.training.warmup_steps == 0.05
    assert config(**LABELLED).training.learning_rate == 3e-4
    assert config(**peft(r=32)).peft.fields["lora_alpha"] == 64
    assert config(**peft("vera")).peft.fields == {}
    assert departures(settled) == departures(config(**LABELLED)) == []


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"training": {"learning_rate": 1e-2}}, "0.01 for causal_lm; with LoRA 0.0001 to 0.0002 is usual"),
        ({**LABELLED, "training": {"learning_rate": 1e-4}}, "0.0003 to 0.0005"),
        ({"training": {"lr_scheduler_type": "linear"}}, "cosine is usual"),
        ({"training": {"warmup_steps": 0}}, "warm-up"),
        (peft(r=8, lora_alpha=8), "lora_alpha: 8 with r 8; 16 is usual"),
        (peft(target_modules=["q_proj"]), "all-linear usually does best"),
        ({**peft(r=64), "dataset": {**TASK["dataset"], "max_samples": 500}}, "for small data 8 is usual"),
        ({**peft(r=8), "dataset": {**TASK["dataset"], "max_samples": 50_000}}, "for large data 16 to 32"),
    ],
)
def test_leaving_what_is_usual_is_remarked_upon(sections: dict[str, Any], expected: str) -> None:
    assert expected in "\n".join(departures(config(**sections)))


@pytest.mark.parametrize(
    "sections",
    [
        {**peft(), **base(name_or_path="builtin:tiny-llama"), "training": {"learning_rate": 1e-2}},
        {**peft(), "training": {"optim": "loraplus", "learning_rate": 5e-5}},
        peft(init_lora_weights="pissa", r=16),
        peft(use_rslora=True, r=64, lora_alpha=16),
        peft("prompt_tuning", num_virtual_tokens=8),
    ],
)
def test_what_is_usual_for_something_else_is_not_remarked_upon(sections: dict[str, Any]) -> None:
    sections = merge({"training": {}}, sections)
    assert departures(config(**sections)) == []


# -- what this machine cannot do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"training": {"fp16": True}}, "training.fp16 needs a GPU"),
        (base(attn_implementation="flash_attention_2"), "needs a GPU"),
        (peft(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}), "computed by PEFT on a GPU"),
    ],
)
def test_what_a_machine_without_a_gpu_cannot_do_is_said(sections: dict[str, Any], expected: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="this machine cannot run it") as caught:
        check_machine(config(**sections))
    assert expected in str(caught.value)
    if "training" in sections:
        check_machine(config(**sections), training=False)


def test_quantisation_without_bitsandbytes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_ns.models.machine.find_spec", lambda name: None)
    for sections in (base(quantization="4bit"), {"training": {"optim": "paged_adamw_8bit"}}):
        with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed"):
            check_machine(config(**sections))
    check_machine(config())


def test_bitsandbytes_is_loaded_for_runs_that_use_it_alone() -> None:
    used = [base(quantization="8bit"), {"training": {"optim": "paged_adamw_32bit"}}, {"training": {"optim": "lion_32bit"}}]
    used.append(peft(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}))
    assert all(uses_bitsandbytes(config(**sections)) for sections in used)
    assert not uses_bitsandbytes(config())
    assert not uses_bitsandbytes(config(training={"optim": "adamw_torch_8bit"}))
