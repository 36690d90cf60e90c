"""Logits only where there is loss: the same loss and the same gradients as with all of them, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import (
    AdaLoraConfig,
    AdaptionPromptConfig,
    IA3Config,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch.testing import assert_close

from lora_ns.data.collator import IGNORED, Batch, with_targets
from lora_ns.training.loss import CausalLoss, LabelLoss, sums_by_owner
from lora_ns.training.padding_free import flatten
from lora_ns.training.token_entropy import token_entropy

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, tie_word_embeddings=True)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SMALL)),
    "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**SMALL)),
    "experts": lambda: transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
                                    shared_expert_intermediate_size=24)
    ),
    "phi3": lambda: transformers.Phi3ForCausalLM(transformers.Phi3Config(**SMALL)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SMALL, final_logit_softcapping=0.5)),
    "cohere": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SMALL, logit_scale=3.0)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2,
                                attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    ),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                               max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0, dropout=0.0)
    ),
}  # fmt: skip


def batch() -> Batch:
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (3, 12))
    attention, labels = torch.ones_like(ids), ids.clone()
    labels[:, :5] = IGNORED
    for row, length in enumerate((12, 9, 7)):
        ids[row, length:], attention[row, length:], labels[row, length:] = 0, 0, IGNORED
    return with_targets({"input_ids": ids, "attention_mask": attention, "labels": labels})


def by_row(loss: CausalLoss, model: Any, inputs: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of losses, right answers) of each row of a padded batch."""
    inputs = with_targets(inputs)
    losses = loss(model, flatten(inputs) if loss.rows == "flat" else inputs)
    return sums_by_owner(losses, inputs["logits_to_keep"].nonzero()[:, 0], len(inputs["input_ids"]))


def expected(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of each row's losses from all logits."""
    rest = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    logits = model(**rest).logits[:, -inputs["labels"].size(1) :][:, :-1].float()
    targets = inputs["labels"][:, 1:]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    return each.sum(-1)


def gradients(model: Any, sums: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sums.sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_same(model: Any, kind: str = "compact") -> None:
    model.eval()
    wanted = expected(model, batch())
    wanted_gradients = gradients(model, wanted)
    loss = CausalLoss(model)
    assert loss.kind == kind
    found, _ = by_row(loss, model, batch())
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert loss.count(batch()) == len(loss(model, batch()).values) == 13
    found_gradients = gradients(model, found)
    assert found_gradients.keys() == wanted_gradients.keys() and found_gradients
    for name, gradient in wanted_gradients.items():
        assert_close(found_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_supervised_positions_alone_give_the_loss_of_all(architecture: str) -> None:
    torch.manual_seed(0)
    check_same(ARCHITECTURES[architecture]())


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules="all-linear", alora_invocation_tokens=[7], task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
        IA3Config(task_type="CAUSAL_LM"),
        AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM"),
        OFTConfig(target_modules="all-linear", oft_block_size=4, task_type="CAUSAL_LM"),
    ],
    ids=["lora", "dora", "alora", "lora on the output layer", "output layer saved", "prompt tuning", "prefix tuning", "ia3",
         "adaption prompt", "oft"],
)  # fmt: skip
def test_it_holds_with_an_adapter_before_or_around_the_model(adapter: Any) -> None:
    torch.manual_seed(0)
    model = get_peft_model(ARCHITECTURES["llama"](), adapter)
    check_same(model)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_it_holds_where_layers_are_computed_again(use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model = get_peft_model(ARCHITECTURES["llama"](), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    loss = CausalLoss(model)
    wanted = gradients(model, by_row(loss, model, batch())[0])
    model.train()  # LoRA's dropout is 0
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    found = gradients(model, by_row(loss, model, batch())[0])
    assert found.keys() == wanted.keys() and found
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


ALORA = LoraConfig(r=4, target_modules="all-linear", alora_invocation_tokens=[7], task_type="CAUSAL_LM")


def test_the_output_layer_sees_the_supervised_positions_only() -> None:
    model = ARCHITECTURES["llama"]()
    loss, seen = CausalLoss(model), []
    model.lm_head.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    loss(model, batch())
    assert seen == [(13, 32)]
    seen.clear()
    CausalLoss(model, flat=True)(model, flatten(batch()))
    assert seen == [(1, 13, 32)]


def test_which_tokens_were_the_likeliest_is_counted() -> None:
    model, inputs = ARCHITECTURES["llama"]().eval(), batch()
    rest = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    said = model(**rest).logits.argmax(-1)
    inputs["labels"][0, 6:9] = said[0, 5:8]
    right = (said[:, :-1] == inputs["labels"][:, 1:]).sum(-1)
    assert right[0] >= 3
    _, found = by_row(CausalLoss(model), model, inputs)
    assert found.tolist() == right.tolist()


def test_tokens_see_no_padding_though_no_mask_is_given() -> None:
    """The same rows beside longer ones, and by themselves."""
    model, inputs = ARCHITECTURES["llama"]().eval(), batch()
    loss = CausalLoss(model)
    together, _ = by_row(loss, model, inputs)
    for row, length in enumerate((12, 9, 7)):
        read = ("input_ids", "attention_mask", "labels")
        alone = with_targets({name: inputs[name][row : row + 1, :length] for name in read})
        assert_close(loss(model, alone).values.sum(), together[row], rtol=1e-5, atol=1e-5)


def test_token_entropy_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 50, dtype=torch.float64, requires_grad=True), torch.randint(50, (7,))
    targets[:3] = logits[:3].argmax(-1)
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    weights = torch.randn(7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((wanted * weights).sum(), logits)
    found, correct = token_entropy(logits * 1.0, targets)
    assert correct.tolist() == (logits.argmax(-1) == targets).tolist()
    assert_close(found, wanted)
    (found_gradient,) = torch.autograd.grad((found * weights).sum(), logits)
    assert_close(found_gradient, gradient)


@pytest.mark.parametrize(
    "adapter",
    [
        None,
        AdaLoraConfig(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", total_step=10),
        AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM"),
    ],
    ids=["none", "adalora", "adaption prompt"],
)
def test_generation_still_has_all_its_logits(adapter: Any) -> None:
    """Also with methods that call the base past its hooks."""
    model = ARCHITECTURES["llama"]()
    model = model.eval() if adapter is None else get_peft_model(model, adapter).eval()
    before = model(input_ids=batch()["input_ids"]).logits
    CausalLoss(model)(model, batch())
    assert_close(model(input_ids=batch()["input_ids"]).logits, before)


def test_rows_without_a_supervised_token_carry_no_loss_and_no_gradient() -> None:
    model = ARCHITECTURES["llama"]()
    inputs = batch()
    inputs["labels"][:] = IGNORED
    found, _ = by_row(CausalLoss(model), model, inputs)
    assert found.tolist() == [0.0] * 3
    assert all(not gradient.any() for gradient in gradients(model, found).values())


def test_label_smoothing_is_the_trainers() -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    model, inputs = ARCHITECTURES["llama"]().eval(), batch()
    output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    wanted = LabelSmoother(epsilon=0.1)(output, inputs["labels"], shift_labels=True)
    assert_close(CausalLoss(model, label_smoothing=0.1)(model, inputs).values.mean(), wanted)


def test_a_model_of_experts_keeps_its_own_loss() -> None:
    model = transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**{**SMALL, "head_dim": None}, num_local_experts=2, output_router_logits=True)
    )
    assert CausalLoss(model).kind == "whole"


class Classifier(torch.nn.Module):
    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, **_: Any) -> Any:
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=self.logits)


def test_classes_and_numbers_have_the_usual_losses_and_a_row_of_nothing_has_none() -> None:
    logits = torch.randn(3, 4)
    labels = torch.tensor([2, 0, IGNORED])
    loss = LabelLoss(regression=False)
    found = loss(Classifier(logits), {"labels": labels})
    assert_close(found.values[:2], torch.nn.functional.cross_entropy(logits[:2], labels[:2], reduction="none"))
    assert found.values[2] == 0 and not found.correct[2]
    assert loss.count({"labels": labels}) == 2
    numbers = torch.tensor([1.5, -100.0, float("nan")])
    loss = LabelLoss(regression=True)
    found = loss(Classifier(logits[:, :1]), {"labels": numbers})
    assert_close(found.values[:2], (logits[:2, 0] - numbers[:2]) ** 2)
    assert found.values[2] == 0
    assert loss.count({"labels": numbers}) == 2
