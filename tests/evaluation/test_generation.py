"""Decoding: what stops it, what it must not hear of, and in which order it answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lora_ns.config import GenerationConfig
from lora_ns.evaluation.engines.decoding import cut_at
from lora_ns.evaluation.generation import Generator

PROMPTS = ["Question: what is 3 plus 4?\nAnswer:", "the cat", "the cat sat on the mat #### 12 " * 3, "7", "on the mat"]


def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def answers(folder: Path, prompts: list[str] = PROMPTS, batch_size: int = 2, **settings: Any) -> list[list[str]]:
    model, tokenizer = loaded(folder)
    config = GenerationConfig(**{"max_new_tokens": 12, **settings})
    keys = [prompt[:20] for prompt in prompts]
    return Generator(model, tokenizer, config, size=batch_size).texts(tokenizer(prompts)["input_ids"], keys)


def test_answers_come_in_the_order_of_the_prompts_and_padding_changes_none(tiny_causal: Path) -> None:
    alone = [answers(tiny_causal, [prompt], 1)[0] for prompt in PROMPTS]
    assert len({answer[0] for answer in alone}) > 1
    assert answers(tiny_causal, batch_size=5) == answers(tiny_causal, batch_size=2) == alone


def test_a_models_own_generation_config_cannot_leak_in(tiny_causal: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sampler"
    shutil.copytree(tiny_causal, folder)
    leaking = {"do_sample": True, "temperature": 5.0, "top_k": 3, "repetition_penalty": 9.0, "max_length": 3}
    leaking |= {"num_beams": 3, "no_repeat_ngram_size": 1, "forced_bos_token_id": 7, "suppress_tokens": [5, 6]}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 3, "bos_token_id": 2, **leaking}))
    assert answers(folder) == answers(tiny_causal)


def test_the_config_itself_cannot_leak_in_through_the_model_config(tiny_causal: Path, tmp_path: Path) -> None:
    """Old checkpoints keep decoding settings in config.json."""
    folder = tmp_path / "old"
    shutil.copytree(tiny_causal, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "temperature": 9.0, "do_sample": True, "num_beams": 4}))
    assert answers(folder) == answers(tiny_causal)


def test_the_end_of_sequence_and_a_further_stop_token_end_an_answer(tiny_causal: Path) -> None:
    model, tokenizer = loaded(tiny_causal)
    encoded = tokenizer(PROMPTS[:1])["input_ids"]
    config = GenerationConfig(max_new_tokens=12)
    free = Generator(model, tokenizer, config).texts(encoded, ["0"])[0][0]
    ids = tokenizer(free, add_special_tokens=False)["input_ids"]
    stopped = Generator(model, tokenizer, config, stop_ids=[ids[3]]).texts(encoded, ["0"])[0][0]
    assert free.startswith(stopped) and len(stopped) < len(free)


def test_stop_texts_end_an_answer_and_are_not_part_of_it(tiny_causal: Path) -> None:
    free = answers(tiny_causal)
    stop = free[0][0][4:6]
    stopped = answers(tiny_causal, stop=[stop])
    assert stopped == [[cut_at(text, [stop])] for (text,) in free] != free
    assert cut_at("a STOP b END", ["END", "STOP"]) == "a " and cut_at("abc", ["x"]) == "abc"


def test_stop_texts_save_the_steps_after_them(tiny_causal: Path) -> None:
    model, tokenizer = loaded(tiny_causal)
    encoded = tokenizer(PROMPTS[:1])["input_ids"]
    stop = Generator(model, tokenizer, GenerationConfig(max_new_tokens=12)).texts(encoded, ["0"])[0][0][2:4]
    steps = []
    forward = model.forward
    model.forward = lambda *words, **named: steps.append(1) or forward(*words, **named)
    Generator(model, tokenizer, GenerationConfig(max_new_tokens=60, stop=[stop])).texts(encoded, ["0"])
    assert 0 < len(steps) < 30


def test_samples_differ_and_the_seed_of_sampling_makes_them_again(tiny_causal: Path) -> None:
    sampling = {"do_sample": True, "temperature": 2.0, "num_samples": 3}
    first = answers(tiny_causal, **sampling)
    assert all(len(samples) == 3 for samples in first) and len(set(first[0])) > 1
    assert answers(tiny_causal, **sampling) == first != answers(tiny_causal, **sampling, seed=1)


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"repetition_penalty": 5.0}])
def test_a_stated_setting_takes_effect(tiny_causal: Path, settings: dict[str, Any]) -> None:
    assert answers(tiny_causal, **settings) != answers(tiny_causal)
