"""Rows read as one without padding: the same loss and gradients as in padded batches, wherever it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, VeraConfig, get_peft_model
from support import causal_task
from test_loss import ALORA, ARCHITECTURES, SMALL, batch, by_row, expected, gradients
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from lora_ns.config import RunConfig, check, merge
from lora_ns.data.collator import IGNORED, with_targets
from lora_ns.store.run import Run
from lora_ns.training.loss import CausalLoss, loss_of
from lora_ns.training.padding_free import MODEL_TYPES, NAME, attend, flatten, reads_flat


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **settings)


def config(**changes: Any) -> RunConfig:
    return check(merge(causal_task("model"), changes), "test")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma", "experts"])
@pytest.mark.parametrize("adapter", [None, lora(), lora(use_dora=True)], ids=["none", "lora", "dora"])
def test_each_row_has_the_loss_and_gradients_that_it_has_padded(architecture: str, adapter: Any) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture]()
    model = model if adapter is None else get_peft_model(model, adapter)
    model.eval()
    wanted = expected(model, batch())
    wanted_gradients = gradients(model, wanted)
    assert reads_flat(model, config())
    found, _ = by_row(CausalLoss(model, flat=True), model, batch())
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    found_gradients = gradients(model, found)
    assert found_gradients.keys() == wanted_gradients.keys() and found_gradients
    for name, gradient in wanted_gradients.items():
        assert_close(found_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def small_model(model_type: str) -> Any:
    """A decoder of the type, its numbers small and its optional parts (experts, low-rank attention) as its class has them."""
    small = {**SMALL, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
             "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1,
             "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
             "sliding_window": None, "first_k_dense_replace": 1, "pad_token_id": 0}  # fmt: skip
    if model_type.startswith("deepseek"):
        small["num_key_value_heads"] = small["num_attention_heads"]
    settings = transformers.AutoConfig.for_model(model_type, **small)
    return transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")


@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_every_listed_model_reads_rows_apart_and_as_padded(model_type: str) -> None:
    torch.manual_seed(0)
    model = small_model(model_type).eval()
    model.config.attention_dropout = 0.0
    assert reads_flat(model, config())
    wanted = expected(model, batch())
    wanted_gradients = gradients(model, wanted)
    found, _ = by_row(CausalLoss(model, flat=True), model, batch())
    assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    found_gradients = gradients(model, found)
    for name, gradient in wanted_gradients.items():
        assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_no_layer_sees_padding_or_a_token_twice() -> None:
    model = ARCHITECTURES["llama"]()
    loss, seen = CausalLoss(model, flat=True), []
    for layer in (model.model.layers[0].self_attn.q_proj, model.model.layers[0].mlp):
        layer.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:2]))
    loss(model, flatten(batch()))
    assert seen == [(1, 12 + 9 + 7)] * 2


def test_no_token_sees_another_row() -> None:
    model = ARCHITECTURES["llama"]().eval()
    loss, changed = CausalLoss(model, flat=True), batch()
    before, _ = by_row(loss, model, batch())
    changed["input_ids"][0] = (changed["input_ids"][0] + 1) % 97
    changed["input_ids"][2, :7] = 5
    after, _ = by_row(loss, model, changed)
    assert_close(after[1], before[1], rtol=0, atol=0)
    moved = (after - before).detach().abs()
    assert moved[0] > 1e-3 < moved[2]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_it_holds_where_layers_are_computed_again(use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model = get_peft_model(ARCHITECTURES["llama"](), lora())
    loss = CausalLoss(model, flat=True)
    wanted = gradients(model, by_row(loss, model, batch())[0])
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    found = gradients(model, by_row(loss, model, batch())[0])
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lengths", [(12, 9, 7), (9, 9, 9), (12, 12, 7), (7, 12, 12)])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_by_rows_and_by_padding_are_one(lengths: tuple[int, ...], key_heads: int) -> None:
    """The second is a GPU's: one call for all rows."""
    torch.manual_seed(0)
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    places = real.view(-1).nonzero()[:, 0]
    outputs, slopes = [], []
    for given in (None, places):
        torch.manual_seed(1)
        query, key, value = (torch.randn(1, sum(lengths), heads, 8, requires_grad=True) for heads in (4, key_heads, key_heads))
        parts = [tensor.transpose(1, 2) for tensor in (query, key, value)]
        seen, _ = attend(None, *parts, None, row_lengths=list(lengths), row_places=given, scaling=0.3)
        (seen * torch.arange(seen.numel()).view(seen.shape).sin()).sum().backward()
        outputs.append(seen)
        slopes.append([tensor.grad for tensor in (query, key, value)])
    assert outputs[0].shape == (1, sum(lengths), 4, 8)
    assert_close(outputs[0], outputs[1])
    assert_close(slopes[0], slopes[1])


def test_a_model_that_read_flat_batches_reads_others_as_before() -> None:
    model = ARCHITECTURES["llama"]().eval()
    rest = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    before = model(**rest).logits
    CausalLoss(model, flat=True)(model, flatten(batch()))
    assert model.config._attn_implementation == NAME
    assert_close(model(**rest).logits, before)
    asked = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    fresh = LlamaForCausalLM(LlamaConfig(**model.config.to_dict())).eval()
    fresh.load_state_dict(model.state_dict())
    said = [one.generate(batch()["input_ids"][:1], **asked).tolist() for one in (model, fresh)]
    assert said[0] == said[1]


def test_a_model_that_keeps_lengths_from_its_attention_is_not_read_wrong() -> None:
    model = ARCHITECTURES["llama"]()
    loss = CausalLoss(model, flat=True)
    forget = lambda _, args, kwargs: (args, {k: v for k, v in kwargs.items() if k != "row_lengths"})  # noqa: E731
    for layer in model.model.layers:
        layer.register_forward_pre_hook(forget, with_kwargs=True)
    with pytest.raises(AssertionError, match="does not tell its attention of rows"):
        loss(model, flatten(batch()))


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "gpt2", "opt", "phi3"])
def test_models_of_another_build_are_padded(architecture: str) -> None:
    assert not reads_flat(ARCHITECTURES[architecture](), config())


@pytest.mark.parametrize(
    "settings",
    [{"is_causal": False}, {"sliding_window": 8}, {"output_router_logits": True},
     {"layer_types": ["full_attention", "sliding_attention"]}, {"attn_logit_softcapping": 5.0}],
    ids=str,
)  # fmt: skip
def test_llamas_that_see_otherwise_are_padded(settings: dict[str, Any]) -> None:
    model = ARCHITECTURES["llama"]()
    assert reads_flat(model, config())
    for key, value in settings.items():
        setattr(model.config, key, value)
    assert not reads_flat(model, config())


def test_a_model_that_looks_both_ways_keeps_its_mask() -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES["llama"]().eval()
    model.config.is_causal = False
    found, _ = by_row(loss_of(config(), model, flat=False), model, batch())
    assert_close(found, expected(model, batch()), rtol=1e-5, atol=1e-5)


class Linear8bitLt(torch.nn.Linear):
    """By its name bitsandbytes', which looks for outliers in all positions."""


@pytest.mark.parametrize("layer", [Linear8bitLt(32, 32, bias=False), torch.nn.Conv1d(32, 32, 3)], ids=["8bit", "conv"])
def test_layers_that_see_other_positions_are_padded(layer: torch.nn.Module) -> None:
    model = ARCHITECTURES["llama"]()
    model.model.layers[1].self_attn.o_proj = layer
    assert not reads_flat(model, config())


def test_layers_with_a_config_of_their_own_are_padded() -> None:
    assert not reads_flat(get_peft_model(ARCHITECTURES["llama"](), lora(layer_replication=[[0, 2], [1, 2]])), config())


def test_a_rows_first_token_is_not_the_one_after_another_rows_last() -> None:
    torch.manual_seed(0)
    model, inputs = ARCHITECTURES["llama"]().eval(), batch()
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
    wanted = expected(model, inputs)
    loss = CausalLoss(model, flat=True)
    assert len(loss(model, flatten(with_targets(inputs))).values) == 11 + 8 + 6
    assert_close(by_row(loss, model, inputs)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "adapter"),
    [
        ({"training": {"torch_compile": True}}, lora()),
        ({"training": {"torch_compile_mode": "default"}}, lora()),
        ({"training": {"neftune_noise_alpha": 5.0}}, lora()),
        ({}, VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")),
        ({}, ALORA),
        ({}, PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")),
    ],
    ids=["compiled", "compiled by its mode", "noise by length", "vera", "alora", "prompt tuning"],
)
def test_what_is_padded_though_the_model_is_llamas(changes: dict[str, Any], adapter: Any) -> None:
    model = get_peft_model(ARCHITECTURES["llama"](), adapter)
    assert not reads_flat(model, config(**changes))
    assert reads_flat(get_peft_model(ARCHITECTURES["llama"](), lora()), config())


@pytest.mark.parametrize("setting", [{"attention_dropout": 0.1}, {"attn_implementation": "eager"}], ids=str)
def test_attention_with_dropout_or_of_another_kind_is_left_as_it_is(setting: dict[str, Any]) -> None:
    shape = ARCHITECTURES["llama"]().config.to_dict()
    assert not reads_flat(LlamaForCausalLM(LlamaConfig(**{**shape, **setting})), config())


def test_flattening_keeps_each_token_its_place_and_label() -> None:
    flat = flatten(batch())
    given = batch()
    real = given["attention_mask"].bool()
    assert flat["input_ids"].tolist() == [given["input_ids"][real].tolist()]
    assert flat["position_ids"].tolist() == [[*range(12), *range(9), *range(7)]]
    assert flat["row_lengths"] == [12, 9, 7] and flat["row_places"] is None
    assert (flat["labels"] != IGNORED).sum() == (given["labels"][:, 1:] != IGNORED).sum() == 13


def test_a_run_is_trained_flat_or_padded_and_the_record_says_so(workplace: Path, tiny_causal: Path) -> None:
    from lora_ns.data.fetch import fetch
    from lora_ns.data.tokenization import tokenize
    from lora_ns.store.artifact import read_record
    from lora_ns.store.paths import Store
    from lora_ns.training.train import train

    said = []
    for peft in ({"method": "lora"}, {"method": "prompt_tuning", "num_virtual_tokens": 3}):
        run = check(causal_task(tiny_causal, peft=peft, training={"max_steps": 2, "learning_rate": 1e-2}), "test")
        store = Store()
        fetch(run.dataset, store)
        tokenize(Run(run, store))
        said.append(read_record(train(Run(run, store), quiet=True))["circumstances"]["rows"])
    assert said == ["flat", "padded"]
