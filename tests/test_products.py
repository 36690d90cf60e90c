"""Whose library multiplies: that the numbers are the same but for rounding, and that it is used where it gains and only there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lora_ns import products
from lora_ns.models import make_deterministic
from lora_ns.record import hardware

ROWS, INNER, OUT = 64, 256, 512


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Shapes of the products that numpy made, on whatever processor this is, in one thread."""
    seen: list[tuple[int, int]] = []
    matmul = np.matmul

    def counted(x: Any, y: Any, **named: Any) -> Any:
        seen.append((x.shape[0], y.shape[1]))
        return matmul(x, y, **named)

    products.settle(False)  # those of earlier tests, beneath these
    monkeypatch.setattr(products, "_kernels", None)
    monkeypatch.setattr(products, "_is_quicker", lambda: True)
    monkeypatch.setattr(products.np, "matmul", counted)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield seen
    torch.set_num_threads(threads)
    products.settle(False)


def layer(bias: bool) -> tuple[torch.nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return torch.nn.Linear(INNER, OUT, bias=bias), torch.randn(ROWS, INNER, requires_grad=True)


def passes(linear: torch.nn.Linear, x: torch.Tensor) -> list[torch.Tensor]:
    out = linear(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *linear.parameters()])]


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_and_its_gradients_are_the_same_but_for_rounding(calls: list[tuple[int, int]], bias: bool) -> None:
    linear, x = layer(bias)
    products.settle(False)
    before = passes(linear, x)
    assert not calls
    products.settle()
    after = passes(linear, x)
    assert sorted(calls) == [(ROWS, INNER), (ROWS, OUT), (OUT, INNER)]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(after, passes(linear, x), strict=True)), "the same bits each time"


def test_rows_in_inference_and_of_three_dimensions_too(calls: list[tuple[int, int]]) -> None:
    linear, x = layer(True)
    products.settle()
    with torch.inference_mode():
        assert linear(x.view(2, ROWS // 2, INNER)).shape == (2, ROWS // 2, OUT)
    assert calls == [(ROWS, OUT)]


def test_a_product_goes_where_it_was_told_to(calls: list[tuple[int, int]]) -> None:
    _, x = layer(False)
    y, whole = torch.randn(OUT, INNER).t(), torch.zeros(2 * ROWS, OUT)
    products.settle()
    torch.mm(x.detach(), y, out=whole[ROWS:])
    assert calls == [(ROWS, OUT)]
    torch.testing.assert_close(whole[ROWS:].double(), x.detach().double() @ y.double(), rtol=1e-5, atol=1e-4)
    assert not whole[:ROWS].any()
    made = torch.empty(0)
    torch.mm(x.detach(), y, out=made)
    assert made.shape == (ROWS, OUT)


OTHERS = {
    "few rows": (torch.randn(8, 1024), torch.randn(1024, 1024)),
    "little work": (torch.randn(64, 64), torch.randn(64, 64)),
    "other precision": (torch.randn(256, 256, dtype=torch.float64), torch.randn(256, 256, dtype=torch.float64)),
    "half precision": (torch.randn(256, 256).bfloat16(), torch.randn(256, 256).bfloat16()),
    "one row for all": (torch.randn(1, 256).expand(256, 256), torch.randn(256, 256)),
    "every other column": (torch.randn(256, 512)[:, ::2], torch.randn(256, 256)),
    "overlapping rows": (torch.randn(2048).as_strided((256, 256), (2, 1)), torch.randn(256, 256)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_gain_stays_torchs(calls: list[tuple[int, int]], name: str) -> None:
    x, y = OTHERS[name]
    products.settle(False)
    before = x @ y
    products.settle()
    assert torch.equal(x @ y, before)
    assert not calls


def test_scaled_sums_stay_torchs(calls: list[tuple[int, int]]) -> None:
    x, y, whole = torch.randn(ROWS, INNER), torch.randn(INNER, OUT), torch.randn(ROWS, OUT)
    products.settle()
    for bias, scales in ((whole, {}), (whole[0], {"alpha": 2}), (whole[0], {"beta": 0.5})):
        torch.testing.assert_close(
            torch.addmm(bias, x, y, **scales).double(),
            torch.addmm(bias.double(), x.double(), y.double(), **scales),
            rtol=1e-5,
            atol=1e-4,
        )
    assert not calls


def test_mistakes_are_torchs_too(calls: list[tuple[int, int]]) -> None:
    products.settle()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.mm(torch.randn(256, 256), torch.randn(128, 256))
    with pytest.raises(RuntimeError):
        torch.addmm(torch.randn(7), torch.randn(256, 256), torch.randn(256, 256))


def test_several_threads_stay_torchs_and_the_record_says_which(calls: list[tuple[int, int]]) -> None:
    linear, x = layer(False)
    make_deterministic(0)
    assert hardware()["products"].startswith(products._blas_of_numpy()["name"])
    torch.set_num_threads(2)
    assert hardware()["products"] == "torch"
    linear(x)
    torch.set_num_threads(1)
    make_deterministic(0, shortcuts=False)
    assert hardware()["products"] == "torch"
    linear(x)
    assert not calls


def test_other_processors_keep_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_kernels", None)
    monkeypatch.setattr(products, "_vendor", lambda: "GenuineIntel")
    products._is_quicker.cache_clear()
    try:
        products.settle()
        assert products.library() == "torch"
    finally:
        products._is_quicker.cache_clear()
