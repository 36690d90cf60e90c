"""RMSNorm and the rotary embedding in few passes give the models' own numbers, and keep out of what computes otherwise."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import causal_task
from torch.testing import assert_close
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama import modeling_llama

from lora_ns.config import check, merge
from lora_ns.fetch import fetch
from lora_ns.store import Store
from lora_ns.sweep import train_all
from lora_ns.tokenize import tokenize
from lora_ns.training import elementwise
from lora_ns.training.elementwise import _RmsNorm, _Rotation, quicken_elementwise
from lora_ns.training.positions import same_instructions

IDS = torch.arange(3, 33).view(3, 10)
SHAPE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
}


def model(kind: str) -> Any:
    torch.manual_seed(0)
    made: Any = KINDS[kind]()
    for parameter in made.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return made.train()


def outcome(made: Any, **inputs: Any) -> dict[str, torch.Tensor]:
    made.zero_grad()
    logits = made(input_ids=IDS, **inputs).logits
    logits.float().square().mean().backward()
    return {"": logits.detach(), **{name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_the_models_own(kind: str) -> None:
    made = model(kind)
    exact, theirs = outcome(copy.deepcopy(made).double()), outcome(made)
    norms = 5 + 4 * (kind == "qwen3")  # which has them for queries and keys too
    assert quicken_elementwise(made) == norms + 2
    called = _counted(made)
    ours = outcome(made)
    assert sum(called.values()) == norms + 2 and ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], own) for name, own in theirs.items())  # else the models' own computed
    for name, true in exact.items():
        far, theirs_far = (float(one[name].sub(true).norm()) for one in (ours, theirs))
        assert far <= 4 * theirs_far + 1e-7 * float(true.norm()), name  # rounding, in another order


def _counted(made: Any) -> dict[str, int]:
    """How often each module with a forward of its own is called from now on."""
    counts: dict[str, int] = {}

    def count(name: str) -> Any:
        return lambda *_: counts.__setitem__(name, counts.get(name, 0) + 1)

    for name, module in made.named_modules():
        if "forward" in vars(module):
            module.register_forward_hook(count(name))
    return counts


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 6), (6,)))
    assert torch.autograd.gradcheck(lambda x, weight: _RmsNorm.apply(x, weight, 1e-3), (x, weight))
    cos, sin = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: _Rotation.apply(x, cos, sin), (x,))


def test_a_frozen_norm_gets_no_gradient_and_passes_its_inputs_on() -> None:
    made = model("llama")
    for name, parameter in made.named_parameters():
        parameter.requires_grad_("norm" not in name)
    theirs = outcome(made)
    quicken_elementwise(made)
    ours = outcome(made)
    assert ours.keys() == theirs.keys() and "model.norm.weight" not in ours
    for name, own in theirs.items():
        assert_close(ours[name], own, rtol=1e-4, atol=1e-6)


def test_other_norms_are_left_as_they_are() -> None:
    made = Gemma2ForCausalLM(Gemma2Config(**SHAPE))  # whose norms add one to their weight
    quicken_elementwise(made)
    assert not [name for name, module in made.named_modules() if "norm" in name and "forward" in vars(module)]


def test_other_precisions_go_the_models_own_way() -> None:
    for change in (lambda made: made.double(), lambda made: made.bfloat16()):
        made = change(model("llama"))
        theirs = outcome(made)
        quicken_elementwise(made)
        ours = outcome(made)
        assert all(torch.equal(ours[name], own) for name, own in theirs.items())
    made = model("llama")
    with torch.autocast("cpu", torch.bfloat16):
        theirs = outcome(made)
        quicken_elementwise(made)
        ours = outcome(made)
    assert all(torch.equal(ours[name], own) for name, own in theirs.items())


def test_gradient_checkpoints_and_copies_compute_the_same() -> None:
    made = model("llama")
    quicken_elementwise(made)
    wanted = outcome(made)
    copied = copy.deepcopy(made)
    with torch.no_grad():
        made.model.norm.weight.mul_(3)
    assert all(torch.equal(own, wanted[name]) for name, own in outcome(copied).items())
    copied.gradient_checkpointing_enable({"use_reentrant": False})
    assert all(torch.equal(own, wanted[name]) for name, own in outcome(copied).items())


def test_the_models_classes_are_as_before_and_a_second_call_changes_nothing() -> None:
    before = (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaAttention.forward)
    made = model("llama")
    assert quicken_elementwise(made) and not quicken_elementwise(made)
    assert before == (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaAttention.forward)
    assert not [module for module in model("llama").modules() if "forward" in vars(module)]


def test_wrapped_functions_of_kernels_are_none_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package `kernels` the function is a module."""
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", torch.nn.Identity())
    made = model("mistral")
    assert quicken_elementwise(made) == 5, "the norms"


@pytest.mark.parametrize("width", [64, 4096])
def test_a_norm_is_as_exact_as_the_models_own_beside_an_outlier(width: int) -> None:
    norm = modeling_llama.LlamaRMSNorm(width)
    x = torch.randn(50, width, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 3000.0
    exact = copy.deepcopy(norm).double()(x.double())
    theirs, ours = ((made.double() / exact - 1).abs().max() for made in (norm(x), _RmsNorm.apply(x, norm.weight, 1e-6)))
    assert ours <= 2 * theirs


def test_a_function_with_another_default_is_another_function() -> None:
    def first(x: int, dim: int = 1) -> int:
        return x + dim

    def second(x: int, dim: int = 2) -> int:
        return x + dim

    assert not same_instructions(first, second) and same_instructions(first, first)


def test_a_function_with_another_number_in_it_is_another_function() -> None:
    source = inspect.getsource(modeling_llama.LlamaRMSNorm.forward).replace("pow(2)", "pow(4)")
    made: dict[str, Any] = {"torch": torch}
    exec("class Other:\n" + source, made)
    own: Any = modeling_llama.LlamaRMSNorm.forward
    assert same_instructions(own, own) and not same_instructions(made["Other"].forward, own)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU nothing is computed so")
@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize(("seeds", "method"), [([0], "lora"), ([0], "ia3"), ([0, 1], "lora")])
def test_trainings_compute_so_unless_told_otherwise(
    workplace: Path,
    tiny_causal: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeds: list[int],
    method: str,
    shortcuts: bool,
) -> None:
    calls: dict[str, int] = {"_RmsNorm": 0, "_Rotation": 0}

    def counted(name: str) -> Any:
        function = getattr(elementwise, name)

        class Counted:
            @staticmethod
            def apply(*arguments: Any) -> Any:
                calls[name] += 1
                return function.apply(*arguments)

        return Counted

    for name in calls:
        monkeypatch.setattr(elementwise, name, counted(name))
    peft = {"method": method, "target_modules": ["q_proj", "down_proj"]}
    if method == "ia3":
        peft["feedforward_modules"] = ["down_proj"]
    task = {**causal_task(tiny_causal), "peft": peft}
    configs = [check(merge(task, {"training": {"shortcuts": shortcuts}, "seed": seed}), "test") for seed in seeds]
    store, made = Store(), []
    fetch(configs[0].dataset, store)
    tokenize(configs[0], store)
    train_all(configs, store, lambda _, outcome: made.append(outcome), quiet=True)
    assert [outcome for outcome in made if isinstance(outcome, Path)] == made and len(made) == len(seeds)
    assert all(bool(count) == shortcuts for count in calls.values()), calls
