"""Continuous batching against transformers' own `generate`, each prompt on its own: the same tokens, whatever the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_ns.config import GenerationConfig
from lora_ns.errors import EvaluationError
from lora_ns.evaluation.generation import Generator

SIZES = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4} | SIZES


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=256))


def qwen2() -> Any:
    """With layers that look back only so far, between layers that see everything."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=2, **window))


def mistral() -> Any:
    """Every layer looks back only so far."""
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=4, sliding_window=8))


def gpt2() -> Any:
    """Learned positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **SIZES))


def opt() -> Any:
    """Learned positions that are counted from the mask."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(**SIZES, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32)
    return OPTForCausalLM(config)


def bloom() -> Any:
    """No positions, but a bias that grows with distance."""
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, tie_word_embeddings=False, **SIZES))


def gemma3() -> Any:
    """Alternating windows, soft limits, two kinds of rotation."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=8, sliding_window_pattern=2)
    return Gemma3ForCausalLM(config)


def mamba() -> Any:
    """No keys and values at all."""
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **SIZES))


def made(make: Callable[[], Any]) -> Any:
    """A random model whose words hang on what stands before them, and whose answers end at different places."""
    import torch

    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.dim() == 2):
            weight.mul_(4)
    return model


@pytest.fixture
def tokenizer(tiny_causal: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_causal)


def prompts(opening: int = 3) -> list[list[int]]:
    """11 prompts that begin alike and go on differently, from one token to 24 after the opening."""
    import random

    draw = random.Random(1)
    head = [draw.randrange(5, 300) for _ in range(opening)]
    return [[*head, *(draw.randrange(5, 300) for _ in range(1 + number * 3 % 25))] for number in range(11)]


def answers(model: Any, tokenizer: Any, asked: list[list[int]], **options: Any) -> tuple[list[list[str]], str]:
    """(texts, engine).  Ends are frequent: one token in ten ends an answer."""
    backend, size = options.pop("backend", "auto"), options.pop("size", 4)
    config = GenerationConfig(**{"max_new_tokens": 14, **options})
    ends = list(range(5, 300, 10))
    generator = Generator(model, tokenizer, config, stop_ids=ends, backend=backend, size=size)
    texts = generator.texts(asked, [str(number) for number in range(len(asked))])
    return texts, generator.facts["engine"]


def alone(model: Any, tokenizer: Any, asked: list[list[int]], **options: Any) -> list[list[str]]:
    """Each prompt in a call of its own, by transformers' own `generate`."""
    keys = [str(number) for number in range(len(asked))]
    config = GenerationConfig(**{"max_new_tokens": 14, **options})
    generator = Generator(model, tokenizer, config, stop_ids=list(range(5, 300, 10)), backend="generate")
    return [generator.texts([ids], [key])[0] for ids, key in zip(asked, keys, strict=True)]


@pytest.mark.parametrize("make", [llama, qwen2, mistral, gpt2, opt, bloom, gemma3])
def test_greedy_answers_are_those_of_each_prompt_alone(make: Callable[[], Any], tokenizer: Any) -> None:
    model = made(make)
    expected = alone(model, tokenizer, prompts())
    assert len({text for (text,) in expected}) > 6 and len({len(text) for (text,) in expected}) > 3
    for size in (3, 11):
        assert answers(model, tokenizer, prompts(), size=size) == (expected, "continuous")


@pytest.mark.parametrize("opening", [0, 40])
def test_what_all_prompts_begin_with_changes_no_answer(opening: int, tokenizer: Any) -> None:
    model = made(mistral)
    asked = prompts(opening)
    assert answers(model, tokenizer, asked) == (alone(model, tokenizer, asked), "continuous")
    same = [asked[3]] * 5
    assert answers(model, tokenizer, same)[0] == alone(model, tokenizer, same)


def test_a_model_that_keeps_more_in_mind_than_keys_and_values_is_asked_by_generate(tokenizer: Any) -> None:
    model = made(mamba)
    texts, engine = answers(model, tokenizer, prompts())
    assert engine == "generate" and len(texts) == 11


# -- adapters --------------------------------------------------------------------------------------------------------------


def with_adapter(model: Any, kind: str) -> Any:
    """A random adapter that changes what is said."""
    import torch
    from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

    virtual = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
    configs = {
        "lora": lambda: LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"),
        "prefix_tuning": lambda: PrefixTuningConfig(**virtual),
        "prompt_tuning": lambda: PromptTuningConfig(**virtual),
        "p_tuning": lambda: PromptEncoderConfig(**virtual, encoder_hidden_size=16),
    }
    torch.manual_seed(1)
    adapted = get_peft_model(model, configs[kind]()).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name or "prompt_encoder" in name:
            torch.nn.init.normal_(weight)
    return adapted


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("kind", ["lora", "prefix_tuning", "prompt_tuning", "p_tuning"])
def test_adapters_answer_as_each_prompt_alone(make: Callable[[], Any], kind: str, tokenizer: Any) -> None:
    model = with_adapter(made(make), kind)
    expected = alone(model, tokenizer, prompts())
    assert answers(model, tokenizer, prompts()) == (expected, "continuous")
    assert answers(model, tokenizer, prompts(), backend="generate") == (expected, "generate")
    assert expected != alone(made(make), tokenizer, prompts())


# -- drawn answers ---------------------------------------------------------------------------------------------------------

DRAWING = {"do_sample": True, "temperature": 1.5, "top_p": 0.95, "top_k": 50, "num_samples": 3}


def test_a_drawn_answer_hangs_on_seed_example_and_sample_alone(tokenizer: Any) -> None:
    model, asked = made(llama), prompts()
    texts, engine = answers(model, tokenizer, asked, **DRAWING)
    assert engine == "continuous" and all(len(set(samples)) > 1 for samples in texts)
    assert answers(model, tokenizer, asked, size=9, **DRAWING)[0] == texts
    assert answers(model, tokenizer, asked, backend="generate", **DRAWING) == (texts, "generate")
    assert alone(model, tokenizer, asked, **DRAWING) == texts
    assert answers(model, tokenizer, asked, seed=1, **DRAWING)[0] != texts
    beams = {**DRAWING, "num_beams": 3}
    assert answers(model, tokenizer, asked, **beams)[0] == alone(model, tokenizer, asked, **beams)


# -- what ends an answer, what is said twice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "generate"])
def test_a_stop_text_across_the_borders_of_tokens_ends_an_answer(backend: str, tokenizer: Any) -> None:
    model, asked = made(llama), prompts()
    free = alone(model, tokenizer, asked)
    stops = [*[text[3:6] for (text,) in free if len(text) > 8][:3], "\n"]
    pieces = [len(tokenizer(stop, add_special_tokens=False)["input_ids"]) for stop in stops]
    cut = [[min((text.split(stop)[0] for stop in stops), key=len)] for (text,) in free]
    assert max(pieces) > 1 and cut != free
    assert answers(model, tokenizer, asked, stop=stops, backend=backend)[0] == cut


def test_padding_is_not_among_what_a_repetition_penalty_punishes(tokenizer: Any) -> None:
    """Token 0 is the padding, and made a word that this model likes to say."""
    import torch

    model, asked = made(llama), prompts()
    with torch.no_grad():
        model.lm_head.weight[0] = 1.2 * model.lm_head.weight[said_most(model, tokenizer, asked)]
    expected = alone(model, tokenizer, asked, repetition_penalty=1.8)
    for backend in ("auto", "generate"):
        assert answers(model, tokenizer, asked, repetition_penalty=1.8, backend=backend)[0] == expected


def said_most(model: Any, tokenizer: Any, asked: list[list[int]]) -> int:
    """The token that is the likeliest next one most often."""
    import torch

    first = [int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) for ids in asked]
    return max(first, key=first.count)


# -- which engine, how many at a time -----------------------------------------------------------------------------------------


def test_an_engine_that_would_say_something_else_is_not_used(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_ns.evaluation.engines.kv_cache import SlottedKVCache

    model, asked = made(gpt2), prompts()
    monkeypatch.setattr(SlottedKVCache, "positions", property(lambda slots: [slots.end] * len(slots.firsts)))
    generator = Generator(model, tokenizer, GenerationConfig(max_new_tokens=14), stop_ids=range(5, 300, 10))
    texts = generator.texts(asked, [str(number) for number in range(11)])
    assert texts == alone(model, tokenizer, asked) and generator.facts["engine"] == "generate"
    assert "logits differ" in generator.facts["because"]
    with pytest.raises(EvaluationError, match="backend continuous cannot answer with this model: logits differ"):
        answers(model, tokenizer, asked, backend="continuous")


def test_memory_that_runs_out_halves_the_batch_and_nothing_is_asked_twice(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model, asked = made(llama), prompts()
    forward = model.forward

    def of_few(**named: Any) -> Any:
        if len(named["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return forward(**named)

    expected = answers(model, tokenizer, asked)[0]
    of_few.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", of_few)
    told: list[int] = []
    generator = Generator(model, tokenizer, GenerationConfig(max_new_tokens=14), stop_ids=range(5, 300, 10), size=8)
    texts = generator.texts(asked, [str(number) for number in range(11)], told.append)
    assert texts == expected and sum(told) == 11
    assert generator.facts == {"engine": "continuous", "batch_size": 2, "halved_from": 8}


def test_the_longest_prompt_is_asked_first(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory runs out in the first minute, if at all."""
    model, asked = made(llama), prompts()
    done: list[int] = []
    generator = Generator(model, tokenizer, GenerationConfig(max_new_tokens=1), size=2)
    monkeypatch.setattr(
        "lora_ns.evaluation.generation.count_examples", lambda samples, progress: lambda a: done.append(len(a.prompt))
    )
    generator.texts(asked, [str(number) for number in range(11)])
    assert sorted(done, reverse=True)[:2] == sorted(done[:2], reverse=True)
