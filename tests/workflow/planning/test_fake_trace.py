"""What is counted of a computation: storages for as long as they live, and each kernel's work."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lora_ns.workflow.planning.fake_trace import FakeTrace

MEBIBYTE = 2**20
FLOATS = MEBIBYTE // 4


def test_the_peak_is_what_lives_at_once_and_views_take_nothing() -> None:
    with FakeTensorMode(), FakeTrace() as trace:
        first = torch.empty(FLOATS)
        second = first + 1
        _ = second.view(2, -1)[0]
        assert trace.live == trace.peak == 2 * MEBIBYTE
        del second, _
        assert trace.live == MEBIBYTE
        first.add_(1)
        third = torch.cat([first, first])
        assert trace.live == trace.peak == 3 * MEBIBYTE
        del first, third
    assert trace.live == 0


def test_what_backward_needs_lives_until_backward_is_done() -> None:
    with FakeTensorMode(), FakeTrace() as trace:
        weight = torch.empty(1024, 256, requires_grad=True)
        loss = (weight.exp().exp()).sum()
        assert trace.live == 3 * MEBIBYTE + 4  # the weight, both exponentials (exp saves its result), the sum
        loss.backward()
        assert trace.live == 2 * MEBIBYTE + 4  # the weight and its gradient


@pytest.mark.parametrize("with_values", [True, False])
def test_operations_and_bytes_of_matrix_products_and_attention(with_values: bool) -> None:
    trace = FakeTrace()
    if with_values:  # the same on real tensors
        with trace:
            _compute()
    else:
        with FakeTensorMode(), trace:
            _compute()
    product = (2 * 64 * 32 * 16, 4 * (64 * 32 + 32 * 16 + 64 * 16))
    assert trace.kernels[product] == 3
    attention = 2 * (2 * 2 * 4 * 64 * 64 * 8)  # queries by keys, and weights by values, for 2 rows of 4 heads
    assert sum(calls for (flops, _), calls in trace.kernels.items() if flops == attention) == 1


def _compute() -> None:
    a, b = torch.ones(64, 32), torch.ones(32, 16)
    for _ in range(3):
        torch.mm(a, b)
    heads = torch.ones(2, 4, 64, 8)
    torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)


def test_a_mask_without_content_sets_as_many_places_as_it_is_told() -> None:
    with FakeTensorMode(), FakeTrace(chosen=5):
        x = torch.empty(4, 8, 3, requires_grad=True)
        mask = torch.ones(4, 8, dtype=torch.bool)
        chosen = x[mask]
        assert chosen.shape == (5, 3) and mask.nonzero().shape == (5, 2)
        chosen.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape
        assert torch.bincount(mask.nonzero()[:, 0], minlength=4).shape == (4,)
