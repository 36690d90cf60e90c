"""LoRA's quicker product gives PEFT's numbers, and keeps out of everything that it does not know."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from lora_ns.training.lowrank import quicken

IDS = torch.arange(3, 33).view(3, 10)


def model(bias: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                        attention_bias=bias)  # fmt: skip
    base = LlamaForCausalLM(shape)
    made = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=12, task_type="CAUSAL_LM", **{"target_modules": "all-linear", **settings})
    )
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return made.train()


def outcome(made: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    made.zero_grad()
    torch.manual_seed(1)  # dropout's
    logits = made(input_ids=IDS).logits
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("settings", [{}, {"bias": True}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]},
                                      {"rank_pattern": {"q_proj": 2}}, {"lora_dropout": 0.3}])  # fmt: skip
def test_outputs_and_gradients_are_pefts(settings: dict[str, Any]) -> None:
    made = model(**settings)
    in_double = copy.deepcopy(made).double()
    pefts = outcome(made)
    assert quicken(made) > 0
    found = outcome(made)
    assert found[1].keys() == pefts[1].keys() and found[1]
    if "lora_dropout" in settings:  # which draws other numbers in double precision
        assert_close(found[0], pefts[0], rtol=1e-5, atol=1e-6)
        assert_close(found[1], pefts[1], rtol=1e-4, atol=1e-7)
        return
    exact = outcome(in_double)
    for name, true in {"": exact[0], **exact[1]}.items():
        ours, theirs = (float((one[1][name] if name else one[0]).sub(true).norm()) for one in (found, pefts))
        assert ours <= 4 * theirs + 1e-7 * float(true.norm()), (name, ours, theirs)  # rounding, in another order


def test_layers_of_another_kind_keep_pefts_forward() -> None:
    made = model(use_dora=True)
    assert quicken(made) == 0


def test_evaluation_merging_and_a_disabled_adapter_go_pefts_way() -> None:
    made = model()
    with torch.no_grad():
        wanted = made.eval()(input_ids=IDS).logits
        with made.disable_adapter():
            plain = made(input_ids=IDS).logits
        made.train()
        quicken(made)
        with made.disable_adapter():
            assert_close(made(input_ids=IDS).logits, plain)
        assert not torch.equal(plain, wanted)
        made.merge_adapter()
        assert_close(made(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-5)
