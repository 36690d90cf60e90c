"""AdaLoRA's own part of the loss is in the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lora_ns.models.adaptive_rank import orthogonality


def test_the_penalty_is_what_peft_adds_to_the_models_own_loss(tiny_causal: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_causal)
    config = AdaLoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", total_step=10, orth_reg_weight=0.7)
    model = get_peft_model(base, config).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, labels=ids).loss
        plain = model(input_ids=ids).logits
        rows = torch.nn.functional.cross_entropy(plain[0, :-1], ids[0, 1:])
        penalty = orthogonality(model)
    assert penalty is not None and penalty > 0.1
    assert float(rows + penalty) == pytest.approx(float(whole), rel=1e-5)


def test_other_methods_have_none(tiny_causal: Path) -> None:
    assert orthogonality(AutoModelForCausalLM.from_pretrained(tiny_causal)) is None
