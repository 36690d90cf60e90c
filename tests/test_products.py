"""Whose library multiplies: that the numbers are the same but for rounding, and that it is used where it gains and only there."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import causal_task

from lora_ns import products
from lora_ns.base_model import make_base_model
from lora_ns.config import check, merge
from lora_ns.fetch import fetch
from lora_ns.models import make_deterministic
from lora_ns.record import hardware
from lora_ns.sources import pretraining
from lora_ns.store import Store, read_record
from lora_ns.sweep import train_all
from lora_ns.tokenize import tokenize

ROWS, INNER, OUT = 64, 256, 512


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Shapes of the products that numpy made, on whatever processor this is, in one thread."""
    seen: list[tuple[int, int]] = []
    matmul = np.matmul

    def counted(x: Any, y: Any, **named: Any) -> Any:
        seen.append((x.shape[0], y.shape[1]))
        return matmul(x, y, **named)

    monkeypatch.setattr(products, "quicker", lambda: "OpenBLAS")
    monkeypatch.setattr(products.np, "matmul", counted)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield seen
    products.settle(False)
    torch.set_num_threads(threads)


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
    products.settle(True)
    after = passes(linear, x)
    assert sorted(calls) == [(ROWS, INNER), (ROWS, OUT), (OUT, INNER)]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(after, passes(linear, x), strict=True)), "the same bits each time"


def test_rows_in_inference_and_of_three_dimensions_too(calls: list[tuple[int, int]]) -> None:
    linear, x = layer(True)
    products.settle(True)
    with torch.inference_mode():
        assert linear(x.view(2, ROWS // 2, INNER)).shape == (2, ROWS // 2, OUT)
    assert calls == [(ROWS, OUT)]


def test_a_product_goes_where_it_was_told_to(calls: list[tuple[int, int]]) -> None:
    _, x = layer(False)
    y, whole = torch.randn(OUT, INNER).t(), torch.zeros(2 * ROWS, OUT)
    products.settle(True)
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
    "one column summed over": (torch.randn(8192, 1), torch.randn(1, 2048)),
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
    products.settle(True)
    assert torch.equal(x @ y, before)
    assert not calls


def test_scaled_sums_stay_torchs(calls: list[tuple[int, int]]) -> None:
    x, y, whole = torch.randn(ROWS, INNER), torch.randn(INNER, OUT), torch.randn(ROWS, OUT)
    products.settle(True)
    for bias, scales in ((whole, {}), (whole[0], {"alpha": 2}), (whole[0], {"beta": 0.5})):
        torch.testing.assert_close(
            torch.addmm(bias, x, y, **scales).double(),
            torch.addmm(bias.double(), x.double(), y.double(), **scales),
            rtol=1e-5,
            atol=1e-4,
        )
    assert not calls


@pytest.mark.parametrize("shapes", [((256, 256), (128, 256)), ((256,), (256, 256)), ((2, 256, 256), (256, 256))])
def test_mistakes_are_torchs_too(calls: list[tuple[int, int]], shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    x, y = map(torch.randn, shapes)
    said = []
    for wanted in (False, True):
        products.settle(wanted)
        for call in (torch.mm, lambda x, y: torch.mm(x, y, out=torch.empty(0)), lambda x, y: torch.addmm(x, x, y)):
            with pytest.raises((RuntimeError, IndexError)) as error:
                call(x, y)
            said.append(str(error.value))
    assert said[:3] == said[3:]


def test_what_is_not_finite_goes_on_without_a_word(calls: list[tuple[int, int]]) -> None:
    products.settle(True)
    large = torch.full((256, 256), 1e30)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        assert (large @ large).isinf().all()
    assert calls


def test_rows_and_result_can_be_resized_as_any_tensor(calls: list[tuple[int, int]]) -> None:
    linear, x = layer(False)
    products.settle(True)
    given = x.detach().clone()
    out = torch.mm(given, linear.weight.detach().t())
    assert calls
    for tensor in (given, out):
        assert tensor.resize_(2 * ROWS, OUT).shape == (2 * ROWS, OUT)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_results_have_the_precision_of_what_they_are_of(calls: list[tuple[int, int]], default: torch.dtype) -> None:
    linear, x = layer(True)
    products.settle(True)
    torch.set_default_dtype(default)  # as transformers does while it builds a model
    try:
        found = passes(linear, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert calls
    assert {tensor.dtype for tensor in found} == {torch.float32}


def test_several_threads_stay_torchs_and_the_record_says_which(calls: list[tuple[int, int]]) -> None:
    linear, x = layer(False)
    make_deterministic(0, shortcuts=True)
    assert hardware()["products"] == "OpenBLAS"
    torch.set_num_threads(2)
    assert hardware()["products"] == "torch"
    linear(x)
    torch.set_num_threads(1)
    make_deterministic(0)
    assert hardware()["products"] == "torch"
    linear(x)
    torch.set_num_threads(2)
    make_deterministic(0, shortcuts=True)
    torch.set_num_threads(1)
    linear(x)
    assert not calls


def test_torchs_own_are_back_once_it_is_over(calls: list[tuple[int, int]]) -> None:
    from threadpoolctl import threadpool_info

    def limits() -> list[int]:
        return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]

    linear, x = layer(True)
    products.settle(False)
    before, limited = passes(linear, x), limits()
    products.settle(True)
    assert set(limits()) == {1}
    passes(linear, x)
    assert calls
    calls.clear()
    products.settle(False)
    assert all(torch.equal(a, b) for a, b in zip(before, passes(linear, x), strict=True))
    assert not calls
    assert limits() == limited


@pytest.mark.parametrize("vendor", ["GenuineIntel", None])
def test_other_processors_keep_torchs(monkeypatch: pytest.MonkeyPatch, vendor: str | None) -> None:
    monkeypatch.setattr(products, "of_processor", lambda name: vendor)
    assert products.quicker.__wrapped__() is None


def test_amds_have_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "of_processor", lambda name: "AuthenticAMD")
    if not torch.backends.mkl.is_available():
        pytest.skip("this torch brings no MKL")
    import scipy.linalg  # noqa: F401  (which brings another OpenBLAS)

    built: Any = np.show_config(mode="dicts")
    version = built["Build Dependencies"]["blas"]["version"]
    assert re.fullmatch(rf"OpenBLAS {re.escape(version)} \(\w+\)", products.quicker.__wrapped__())


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("seeds", [[0], [0, 1]], ids=["alone", "at once"])
def test_trainings_are_multiplied_so_and_say_so_unless_told_otherwise(
    calls: list[tuple[int, int]],
    workplace: Path,
    tiny_causal: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeds: list[int],
    shortcuts: bool,
) -> None:
    monkeypatch.setattr(products, "LEAST_MULTIPLICATIONS", 1)  # the base is tiny
    store, made = Store(), []
    configs = [
        check(merge(causal_task(tiny_causal), {"training": {"shortcuts": shortcuts}, "seed": seed}), "test")
        for seed in seeds
    ]
    fetch(configs[0].dataset, store)
    tokenize(configs[0], store)
    train_all(configs, store, lambda _, outcome: made.append(outcome), quiet=True)
    library = "OpenBLAS" if shortcuts else "torch"
    for folder in made:
        circumstances = read_record(folder)["circumstances"]
        assert circumstances["hardware"]["products"] == library
        assert len(circumstances.get("fused_with", ["itself"])) == len(seeds)
    assert bool(calls) == shortcuts
    assert products.library() == "torch", "what is computed after it is torch's"


def test_a_base_model_is_made_so_and_its_record_says_so(
    calls: list[tuple[int, int]], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = copy.deepcopy(pretraining.BASE_MODELS["tiny-llama"])
    spec["tokenizer_documents"] = 600
    spec["training"] |= {"steps": 2, "warmup_steps": 1}
    monkeypatch.setitem(pretraining.BASE_MODELS, "tiny-llama", spec)
    torch.set_num_threads(2)
    hardware = read_record(make_base_model("builtin:tiny-llama", Store(), quiet=True))["circumstances"]["hardware"]
    assert (hardware["threads"], hardware["products"]) == (1, "OpenBLAS")
    assert calls
    assert products.library() == "torch"
