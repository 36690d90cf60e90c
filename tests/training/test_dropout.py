"""Dropout with fewer random numbers: as many zeros, the same mean, the same gradients' places, the same bits for a seed."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_loss import ARCHITECTURES

from lora_ns.training.dropout import dropout, quicken_dropout


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_many_numbers_are_zero_and_the_mean_stays(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    count = 400_000
    found = dropout(torch.ones(500, count // 500, dtype=dtype), share)
    spread = 5 * (share * (1 - share) / count) ** 0.5
    assert abs(float((found == 0).float().mean()) - share) < spread
    kept = found[found != 0]
    assert len(kept.unique()) == 1 and float(kept[0]) == pytest.approx(
        1 / (1 - share), rel=1e-2 if dtype.itemsize == 2 else 2e-4
    )


def test_neighbours_are_dropped_independently() -> None:
    """Four of them come from one number."""
    torch.manual_seed(0)
    zeros = (dropout(torch.ones(400_000), 0.3) == 0).double().view(-1, 4)
    both = zeros.T @ zeros / len(zeros)
    for first in range(4):
        for second in range(first):
            assert float(both[first, second]) == pytest.approx(0.09, abs=0.005)


def test_a_gradient_goes_where_a_number_was_kept() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 33, requires_grad=True)
    found = dropout(x, 0.4)
    found.sum().backward()
    assert x.grad is not None and torch.equal(x.grad == 0, found == 0)
    assert torch.allclose(found, x * x.grad)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1.0), (1e-7, 1.0), (1.0, 0.0)])
def test_none_and_all(share: float, kept: float) -> None:
    assert torch.equal(dropout(torch.ones(9), share), torch.full((9,), kept))


def test_a_seed_gives_the_same_numbers() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(dropout(torch.ones(1001), 0.3))
    assert torch.equal(*found) and not torch.equal(found[0], dropout(torch.ones(1001), 0.3))


def test_lora_layers_have_it_in_training_alone() -> None:
    settings = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(ARCHITECTURES["llama"](), settings)
    quicken_dropout(model)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj.lora_dropout["default"]
    x = torch.ones(3, 5)
    torch.manual_seed(0)
    expected = dropout(x, 0.5)
    torch.manual_seed(0)
    assert torch.equal(layer.train()(x), expected) and torch.equal(layer.eval()(x), x)
