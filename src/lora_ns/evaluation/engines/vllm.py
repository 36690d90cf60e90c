"""vLLM in place of transformers, where `evaluation.backend` is `vllm`: it needs a GPU and a package of its own.

Neither run nor measured on a GPU by this project: its tests hold what vLLM is told.  Its kernels round differently, so its
answers need not be those of the other engines to the letter; a score's record says which engine answered.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.evaluation.engines.decoding import Decoder, TokenSequence, until
from lora_ns.store.model_files import location
from lora_ns.store.run import Run

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of max_lora_rank that vLLM accepts."""


@dataclass(frozen=True)
class Base:
    """Settings of one vLLM engine."""

    weights: str
    tokenizer: str
    revision: str | None
    dtype: str
    trust_remote_code: bool
    rank: int | None
    """Largest rank of its adapters.  None: no adapters."""


@dataclass(frozen=True)
class ServedModel:
    """A run's trained model in vLLM's terms."""

    base: Base
    adapter: str | None
    why_not: str | None
    """Why vLLM cannot serve it, or None."""


def served_by_vllm(run: Run) -> ServedModel:
    """The trained model of a run in vLLM's terms."""
    config, model, method = run.config, run.config.model, run.config.peft.method
    place, folder = location(model, run.store), run.adapter.resolve()
    if method in ("none", "full"):
        weights, revision, rank, settings = place, model.revision, None, {}
        if method == "full":
            weights, revision = str(folder), None
    else:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        ranks = [settings.get("r") or 0, *(settings.get("rank_pattern") or {}).values()]
        weights, revision, rank = place, model.revision, next((r for r in RANKS if r >= max(ranks)), None)
    base = Base(weights, place, revision, model.dtype, model.trust_remote_code, rank)
    return ServedModel(base, str(folder) if settings else None, _why_not(config, settings, rank))


def _why_not(config: RunConfig, settings: dict[str, Any], rank: int | None) -> str | None:
    if config.model.quantization != "none":
        return "model.quantization is bitsandbytes' own"
    if not settings:
        return None
    if settings["peft_type"] != "LORA":
        return f"an adapter of {config.peft.method}"
    if rank is None:
        return f"a rank above {RANKS[-1]}"
    taken = [key for key in ("use_dora", "modules_to_save", "trainable_token_indices") if settings.get(key)]
    if settings.get("bias", "none") != "none":
        taken.append("bias")
    return f"a LoRA adapter with {', '.join(taken)}" if taken else None


class VLLMEngine:
    """A model prepared for vLLM."""

    def __init__(self, served: ServedModel, decoder: Decoder):
        self._served = served
        self._decoder = decoder

    def answer(self, answers: Sequence[TokenSequence], size: int, done: Callable[[TokenSequence], None]) -> None:
        """Complete all sequences.  vLLM batches them itself.  done: called after each."""
        from vllm import TokensPrompt
        from vllm.lora.request import LoRARequest

        path = self._served.adapter
        outputs = _engine(self._served.base).generate(
            [TokensPrompt(prompt_token_ids=list(answer.prompt)) for answer in answers],
            [self._settings(answer) for answer in answers],
            lora_request=None if path is None else LoRARequest(Path(path).name, _number(path), path),
            use_tqdm=False,
        )
        for answer, output in zip(answers, outputs, strict=True):
            answer.tokens, answer.ended = until(self._decoder.ends, output.outputs[0].token_ids), True
            done(answer)

    def _settings(self, answer: TokenSequence) -> Any:
        """Sampling parameters with every setting explicit."""
        from vllm import SamplingParams

        config = self._decoder.config
        return SamplingParams(
            n=1,
            temperature=config.temperature if config.do_sample else 0.0,
            top_p=config.top_p if config.do_sample else 1.0,
            top_k=config.top_k if config.do_sample else 0,
            min_p=0.0,
            repetition_penalty=config.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=config.max_new_tokens,
            stop=list(config.stop) or None,
            stop_token_ids=sorted(self._decoder.ends),
            seed=_number(f"{config.seed} {answer.key}"),
        )


def _number(name: str) -> int:
    """A number from 1 to 2**31 that depends on the name only."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) // 2 + 1


@cache
def _engine(base: Base) -> Any:
    """One engine for all runs of a base model.  generation_config.json is not read."""
    from vllm import LLM

    adapters = {} if base.rank is None else {"enable_lora": True, "max_lora_rank": base.rank}
    return LLM(
        model=base.weights,
        tokenizer=base.tokenizer,
        revision=base.revision,
        tokenizer_revision=base.revision,
        dtype=base.dtype,
        trust_remote_code=base.trust_remote_code,
        generation_config="vllm",
        **adapters,
    )
