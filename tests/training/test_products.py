"""Wide frozen layers go through oneDNN, give torch's numbers and gradients, and keep out of everything else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from lora_ns.training.lowrank import quicken
from lora_ns.training.products import FEWEST_ROWS, quicken_frozen

ONEDNN = "mkldnn._linear_pointwise.default"


class Seen(TorchDispatchMode):
    """Counts the products by oneDNN."""

    count = 0

    def __torch_dispatch__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(called) == ONEDNN
        return called(*args, **(kwargs or {}))


def layer(bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(256, 1200, bias=bias).requires_grad_(False)


def by_onednn(done: Callable[[], Any]) -> int:
    with Seen() as seen:
        done()
    return seen.count


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_torchs(bias: bool) -> None:
    plain, quick = layer(bias), layer(bias)
    assert quicken_frozen(quick) == 1
    x = torch.randn(4, 50, 256, requires_grad=True)
    sought = torch.randn(4, 50, 1200)
    wanted, found = plain(x), quick(x)
    assert by_onednn(lambda: quick(x)) == 1 and by_onednn(lambda: plain(x)) == 0
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert_close(*(torch.autograd.grad(out, x, sought) for out in (found, wanted)), rtol=1e-5, atol=1e-5)


def test_few_rows_rows_without_a_gradient_and_autocast_go_torchs_way() -> None:
    quick = layer()
    quicken_frozen(quick)
    few = torch.randn(FEWEST_ROWS - 1, 256, requires_grad=True)
    many = torch.randn(FEWEST_ROWS, 256, requires_grad=True)
    assert by_onednn(lambda: quick(many)) == 1
    assert by_onednn(lambda: quick(few)) == 0
    assert by_onednn(lambda: quick(many.detach())) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert quick(many).dtype == torch.bfloat16


def test_layers_that_are_trained_small_narrow_or_in_other_precision_are_left_alone() -> None:
    narrow = torch.nn.Linear(1200, 256).requires_grad_(False)
    small = torch.nn.Linear(64, 200).requires_grad_(False)
    only_bias = layer()
    assert only_bias.bias is not None
    only_bias.bias.requires_grad_(True)
    others = [layer().requires_grad_(True), only_bias, narrow, small, layer().to(torch.bfloat16)]
    assert quicken_frozen(torch.nn.ModuleList(others)) == 0


def test_lora_on_a_wide_layer_and_the_output_layer_beside_it_keep_their_gradients() -> None:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=1200, hidden_size=256, intermediate_size=1100, num_hidden_layers=1, num_attention_heads=2
    )
    adapter = LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    plain = get_peft_model(LlamaForCausalLM(shape), adapter).train()
    quick = copy.deepcopy(plain)
    assert quicken_frozen(quick) == 3  # gate, what LoRA stands on, output
    assert quicken(quick) == 1
    ids = torch.arange(3, 3 + 2 * FEWEST_ROWS).view(2, -1)

    def gradients(model: Any) -> dict[str, torch.Tensor]:
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    assert_close(gradients(quick), gradients(plain), rtol=1e-3, atol=1e-6)
    assert by_onednn(lambda: gradients(quick)) == 2  # nothing before the first factors has a gradient
