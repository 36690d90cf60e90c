"""Continuous batching: a slot is reused for the next prompt as soon as its completion has ended.

What stands before all questions (solved examples, the opening of a template, a trained prompt) is computed once.  Of a
prompt all but the last token is computed on entry; the last one is the slot's first step together with everybody else's,
so that tokens are chosen in one place.  To the model it looks like any batch that is padded on the left.
"""

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lora_ns.evaluation.engines.decoding import Decoder, TokenSequence
from lora_ns.evaluation.engines.kv_cache import SlottedKVCache
from lora_ns.models.base_model import without_peft

ENTRY_TOKENS = 4096
"""Largest number of prompt tokens in one forward pass.  More would cost memory and save no time."""
PROBE_STEPS = 2

Layers = list[tuple[Any, Any]]
"""(keys, values) [n, heads, T, dim] of each layer."""


@dataclass(frozen=True)
class Head:
    """Common prefix of all prompts: virtual tokens, then shared prompt tokens."""

    layers: Layers
    length: int
    """Length in positions."""
    shared: int
    """Number of prompt tokens among them."""


class ContinuousEngine:
    """A model prepared for continuous batching."""

    def __init__(self, model: Any, decoder: Decoder):
        self._model = model
        self._decoder = decoder
        self._plain = without_peft(model)
        self._trains_prompt = hasattr(model, "peft_config") and model.active_peft_config.is_prompt_learning
        # virtual tokens are in the common prefix, so PEFT must not add them again
        self._forward = self._plain if self._trains_prompt else model
        accepted = inspect.signature(self._plain.forward).parameters
        self._accepts_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def answer(self, answers: Sequence[TokenSequence], size: int, done: Callable[[TokenSequence], None]) -> None:
        """Complete all sequences, `size` at a time, longest prompts first.  done: called after each."""
        import torch

        waiting = sorted(answers, key=lambda answer: (-len(answer.prompt), answer.key))[::-1]
        size = min(size, len(waiting))
        with torch.inference_mode(), _grouped_heads_as_they_are(self._model.device):
            head, running = self._head(answers), list[TokenSequence]()
            longest = head.length - head.shared + max(map(len, (answer.prompt for answer in answers)))
            slots = SlottedKVCache(size, longest + self._decoder.config.max_new_tokens)
            while waiting or running:
                free = size - len(running)
                if waiting and free >= min(max(1, size // 16), len(waiting)):
                    entering = [waiting.pop() for _ in range(min(free, len(waiting)))]
                    for group in _groups(entering):
                        self._enter(group, head, slots)
                    running += entering
                tokens = self._decoder.choose(self._logits(running, slots), running).tolist()
                for answer, token in zip(running, tokens, strict=True):
                    self._decoder.take(answer, token)
                for slot in [place for place, answer in enumerate(running) if answer.ended][::-1]:
                    done(running[slot])
                    slots.vacate(slot)
                    running[slot] = running[-1]
                    running.pop()

    def _logits(self, running: Sequence[TokenSequence], slots: SlottedKVCache) -> Any:
        """Logits of each sequence's next token [n, V]."""
        import torch

        device = self._model.device
        slots.make_room()
        last = [answer.tokens[-1] if answer.tokens else answer.prompt[-1] for answer in running]
        positions = torch.tensor(slots.positions, device=device)[:, None]
        ids = torch.tensor(last, device=device)[:, None]
        logits = self._compute(ids, slots, positions, attention_mask=slots.mask(device))
        slots.advance()
        return logits[:, -1]

    def _compute(self, ids: Any, cache: Any, positions: Any, **inputs: Any) -> Any:
        """Logits of the last position if the model can skip the others: [n, 1 or T, V]."""
        if self._accepts_positions:
            inputs["position_ids"] = positions
        return self._forward(input_ids=ids, past_key_values=cache, use_cache=True, **self._last_only, **inputs).logits

    def _enter(self, group: Sequence[TokenSequence], head: Head, slots: SlottedKVCache) -> None:
        """Prefill the prompts, each without its last token, and put them into slots.

        Shorter prompts are padded on the right, where causal attention never reads the padding.
        """
        import torch

        rests = [list(answer.prompt[head.shared : -1]) for answer in group]
        width, rows = max(map(len, rests)), len(group)
        layers = [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in head.layers]
        if width:
            ids = torch.tensor([rest + [0] * (width - len(rest)) for rest in rests], device=self._model.device)
            positions = torch.arange(head.length, head.length + width, device=ids.device)[None].expand(rows, -1)
            cache = _cache_of(layers)
            self._compute(ids, cache, positions)
            layers = _layers_of(cache)
        slots.fill(layers, [head.length + len(rest) for rest in rests])

    def _head(self, answers: Sequence[TokenSequence]) -> Head:
        """The common prefix leaves at least one token of each prompt."""
        import torch

        prompts = [answer.prompt for answer in answers]
        shared = min(_common(prompts), min(map(len, prompts)) - 1)
        cache = self._trained_prompt() if self._trains_prompt else _cache_of([])
        before = cache.get_seq_length()
        if shared:
            ids = torch.tensor([prompts[0][:shared]], device=self._model.device)
            self._compute(ids, cache, torch.arange(before, before + shared, device=ids.device)[None])
        return Head(_layers_of(cache), before + shared, shared)

    def _trained_prompt(self) -> Any:
        """Keys and values of PEFT's prompt-learning methods."""
        prompt = self._model.get_prompt(batch_size=1)
        if hasattr(prompt, "get_seq_length"):  # prefix tuning
            return _cache_of(_layers_of(prompt))
        cache = _cache_of([])
        embeds = prompt.to(self._plain.get_input_embeddings().weight.dtype)
        self._plain(inputs_embeds=embeds, past_key_values=cache, use_cache=True, **self._last_only)
        return cache

    def why_not(self, answers: Sequence[TokenSequence]) -> str | None:
        """Reason why this model cannot use continuous batching, or None.

        Two prompts, of different length if possible, enter one after the other and are decoded side by side for a few
        tokens. Their logits are compared with those of each whole text alone, without a cache. This shows errors in the
        model's use of positions, masks and caches.
        """
        import torch

        by_length = sorted(answers, key=lambda answer: len(answer.prompt))
        different = (a for a in by_length if len(a.prompt) > len(by_length[0].prompt))
        chosen = [by_length[0], next(different, by_length[-1])][: len(answers)]
        trial = [TokenSequence(answer.prompt, answer.key) for answer in chosen]
        try:
            with torch.inference_mode(), _grouped_heads_as_they_are(self._model.device):
                return self._difference(trial)
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def _difference(self, trial: Sequence[TokenSequence]) -> str | None:
        import torch

        head, running = self._head(trial), list[TokenSequence]()
        slots = SlottedKVCache(len(trial), len(trial[-1].prompt) + head.length + PROBE_STEPS)
        for _ in range(PROBE_STEPS):
            if len(running) < len(trial):
                running.append(trial[len(running)])
                self._enter(running[-1:], head, slots)
            found = self._logits(running, slots).float()
            expected = torch.stack([self._alone(answer) for answer in running]).float()
            if not _alike(found, expected, self._plain.dtype):
                return f"logits differ by {float((found - expected).abs().max()):.3g} from those of a text alone"
            for answer, token in zip(running, expected.argmax(-1).tolist(), strict=True):
                answer.tokens.append(token)
        return None

    def _alone(self, answer: TokenSequence) -> Any:
        """Logits after a text computed without cache [V]."""
        import torch

        ids = torch.tensor([[*answer.prompt, *answer.tokens]], device=self._model.device)
        return self._model(input_ids=ids, use_cache=False).logits[0, -1]


def _groups(entering: Sequence[TokenSequence]) -> Iterator[list[TokenSequence]]:
    """Sequences for one forward pass: prompts of similar length, limited in number."""
    group: list[TokenSequence] = []
    for answer in entering:
        if group and (len(group) + 1) * len(group[0].prompt) > ENTRY_TOKENS:
            yield group
            group = []
        group.append(answer)
    yield group


def _alike(found: Any, expected: Any, dtype: Any) -> bool:
    """Whether the top logits are equal up to rounding, relative to their spread."""
    import torch

    values, tokens = expected.topk(min(64, expected.shape[-1]))
    spread = (values[:, :1] - values[:, -1:]).clamp(min=1e-6)
    limit = 1e-3 if dtype in (torch.float32, torch.float64) else 1e-1
    return bool(((found.gather(-1, tokens) - values).abs() <= limit * spread).all())


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix of all prompts."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    same = (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(same, min(len(first), len(last)))


def _cache_of(layers: Layers) -> Any:
    """A cache that stores every position.  The mask decides what is attended to."""
    from transformers.cache_utils import Cache, DynamicLayer

    cache = Cache(layer_class_to_replicate=DynamicLayer)
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def _layers_of(cache: Any) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]


@contextmanager
def _grouped_heads_as_they_are(device: Any) -> Iterator[None]:
    """Stop transformers from repeating grouped keys for each query head: same bits, a quarter of the time on a CPU.

    Not on a GPU: torch's fast kernels there do not take a mask together with grouped heads.
    """
    name = "TRANSFORMERS_SDPA_FORCE_GQA"
    before = os.environ.get(name)
    if str(device) == "cpu":
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
