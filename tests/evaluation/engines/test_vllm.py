"""What vLLM is told.  vLLM itself needs a GPU and is not installed: a stand-in with its names takes down every word."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import causal_task

from lora_ns.config import RunConfig, check
from lora_ns.errors import ConfigError
from lora_ns.models.machine import check_machine
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_scores


def task(model: Path, **changes: Any) -> RunConfig:
    generation = {"max_new_tokens": 8, "stop": ["cat", "\n\n"], "do_sample": True, "top_k": 7, "temperature": 0.5}
    evaluation = {"benchmarks": ["gsm8k"], "generation": generation, "backend": "vllm"}
    return check({**causal_task(model), "evaluation": evaluation, **changes}, "test")


def test_without_vllm_it_is_said_before_any_work(workplace: Path, tiny_causal: Path) -> None:
    config = task(tiny_causal)
    with pytest.raises(ConfigError, match="vllm needs vllm, which is not installed here"):
        check_machine(config, training=False, backend="vllm")
    evaluation = Run(config, Store()).evaluation(config.evaluation.benchmarks[0])
    found = make_scores([Run(config, Store())], evaluation, quiet=True)
    assert "needs vllm" in str(found[Run(config, Store()).name]) and not Path("results/adapters").exists()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a stand-in for vLLM was told; it answers `5 6 <end>` to everything."""
    heard: dict[str, Any] = {}

    class LLM:
        def __init__(self, **named: Any):
            heard["engine"] = named

        def generate(self, prompts: list[Any], settings: list[Any], **named: Any) -> list[Any]:
            heard.update(prompts=prompts, settings=settings, **named)
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5, 6, 3])]) for _ in prompts]

    def plainly(**named: Any) -> dict[str, Any]:
        return named

    def adapter(name: str, number: int, path: str) -> tuple[str, int, str]:
        return name, number, path

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=plainly, TokensPrompt=plainly))
    monkeypatch.setitem(sys.modules, "vllm.lora", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=adapter))
    monkeypatch.setattr("lora_ns.models.machine.find_spec", lambda name: True)
    return heard


def test_it_is_told_base_adapter_prompts_and_every_decoding_setting(
    workplace: Path, tiny_causal: Path, told: dict[str, Any]
) -> None:
    config, store = task(tiny_causal), Store()
    run = Run(config, store).name
    path = make_scores([Run(config, store)], Run(config, store).evaluation(config.evaluation.benchmarks[0]), quiet=True)[run]
    assert isinstance(path, Path), path
    assert json.loads(path.read_text())["circumstances"]["answering"]["engine"] == "vllm"
    engine, settings = told["engine"], told["settings"]
    assert engine["model"] == str(tiny_causal) and engine["generation_config"] == "vllm"
    assert (engine["enable_lora"], engine["max_lora_rank"]) == (True, 8)
    assert told["lora_request"][2] == str(store.adapter(run).resolve()) and read_record(store.adapter(run))
    assert len(told["prompts"]) == len(settings) == 10 and told["prompts"][0]["prompt_token_ids"][0] == 2
    assert settings[0] | {"seed": None} == {
        "n": 1, "temperature": 0.5, "top_p": 1.0, "top_k": 7, "min_p": 0.0, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "max_tokens": 8, "stop": ["cat", "\n\n"],
        "stop_token_ids": [3], "seed": None,
    }  # fmt: skip
    assert len({one["seed"] for one in settings}) == 10
    lines = [json.loads(line) for line in store.predictions(run, path.stem).read_text().splitlines()]
    assert {line["completions"][0] for line in lines} == {lines[0]["completions"][0]}
    here = Run(config, store).with_benchmarks(config.evaluation.benchmarks, backend="generate")
    judged = make_scores([here], here.evaluations[0], quiet=True, rescore=True)[run]
    assert "no kept predictions" in str(judged), "vLLM drew by other random numbers"


def test_what_it_cannot_take_is_answered_here_and_said(workplace: Path, tiny_causal: Path, told: dict[str, Any]) -> None:
    config, store = task(tiny_causal, peft={"method": "prompt_tuning", "num_virtual_tokens": 2}), Store()
    run = Run(config, store).name
    path = make_scores([Run(config, store)], Run(config, store).evaluation(config.evaluation.benchmarks[0]), quiet=True)[run]
    assert isinstance(path, Path), path
    how = json.loads(path.read_text())["circumstances"]["answering"]
    assert how["engine"] == "continuous" and how["because"] == "not by vllm: an adapter of prompt_tuning" and not told


def test_answers_that_vllm_draws_have_a_name_of_their_own(workplace: Path, tiny_causal: Path) -> None:
    """It has other random numbers.  The likeliest answers are everybody's."""

    def named(backend: str, **generation: Any) -> str:
        run = Run(task(tiny_causal), Store())
        evaluation = run.config.evaluation.model_copy(update={"generation": generation})
        run = Run(run.config.model_copy(update={"evaluation": evaluation}), run.store)
        return run.with_benchmarks(run.config.evaluation.benchmarks, backend=backend).evaluations[0].name

    assert named("vllm", do_sample=True) != named("generate", do_sample=True) == named("continuous", do_sample=True)
    assert named("vllm") == named("generate") == named("continuous")
