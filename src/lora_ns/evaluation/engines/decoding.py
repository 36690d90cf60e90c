"""Decoding: choose each completion's next token and decide when the completion ends.

The engines compute the logits and call this module, whatever the batch.  A sampled token depends only on the seed, the
example and the sample's number: each completion has its own stream of random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lora_ns.config import GenerationConfig
from lora_ns.data.chat_template import Chat


@dataclass
class TokenSequence:
    """A prompt and its completion so far."""

    prompt: Sequence[int]
    key: str
    """The example's id and the sample's number."""
    tokens: list[int] = field(default_factory=list)
    """The completion, without the token that ended it."""
    ended: bool = False
    _stream: random.Random | None = field(default=None, repr=False)

    def begin_again(self) -> None:
        """Discard the completion and restart its random numbers."""
        self.tokens, self.ended, self._stream = [], False, None

    def draw(self, seed: int) -> float:
        """Return this completion's next random number, in [0, 1)."""
        if self._stream is None:
            self._stream = random.Random(f"{seed} {self.key}")
        return self._stream.random()


class Decoder:
    """Applies the decoding settings.  ends: tokens that end a completion."""

    def __init__(self, tokenizer: Any, config: GenerationConfig, ends: frozenset[int]):
        self.tokenizer = tokenizer
        self.config = config
        self.ends = ends
        self._stops = StopTexts(config.stop, tokenizer) if config.stop else None

    @property
    def is_plain_greedy(self) -> bool:
        """Whether decoding is argmax over unmodified logits."""
        return not self.config.do_sample and self.config.repetition_penalty == 1.0

    def choose(self, logits: Any, answers: Sequence[TokenSequence]) -> Any:
        """Return the next token of each completion, [n].  logits [n, V]."""
        scores = self._penalised(logits.float(), answers)
        return self._drawn(scores, answers) if self.config.do_sample else scores.argmax(-1)

    def _penalised(self, scores: Any, answers: Sequence[TokenSequence]) -> Any:
        """Repetition penalty of Keskar et al. 2019 (arXiv 1909.05858) over the prompt and completion, never over padding."""
        penalty = self.config.repetition_penalty
        if penalty == 1.0:
            return scores
        import torch

        scores = scores.clone()
        for row, answer in enumerate(answers):
            said = torch.tensor(sorted({*answer.prompt, *answer.tokens}), device=scores.device)
            found = scores[row, said]
            scores[row, said] = torch.where(found < 0, found * penalty, found / penalty)
        return scores

    def _drawn(self, scores: Any, answers: Sequence[TokenSequence]) -> Any:
        """Sample by inverse CDF: the token whose interval of the cumulative probabilities holds the random number."""
        import torch

        for warper in self._warpers:
            scores = warper(None, scores)
        cumulated = scores.double().softmax(-1).cumsum(-1)
        numbers = [answer.draw(self.config.seed) for answer in answers]
        wanted = torch.tensor(numbers, dtype=torch.double, device=scores.device)[:, None] * cumulated[:, -1:]
        return torch.searchsorted(cumulated, wanted, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)

    @cached_property
    def _warpers(self) -> list[Any]:
        """Logits warpers of transformers, in its order."""
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        config = self.config
        found: list[Any] = []
        if config.temperature != 1.0:
            found.append(TemperatureLogitsWarper(config.temperature))
        if config.top_k:
            found.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1.0:
            found.append(TopPLogitsWarper(config.top_p))
        return found

    def take(self, answer: TokenSequence, token: int) -> None:
        """Append a token to a completion, or end the completion."""
        if token in self.ends:
            answer.ended = True
            return
        answer.tokens.append(token)
        answer.ended = len(answer.tokens) >= self.config.max_new_tokens or self.is_stopped(answer.tokens)

    def is_stopped(self, tokens: Sequence[int]) -> bool:
        """Whether the last token completes a stop text."""
        return self._stops is not None and self._stops.end(tokens)

    def text(self, answer: TokenSequence) -> str:
        """Return the completion's text up to the first stop text."""
        decoded = self.tokenizer.decode(answer.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cut_at(decoded, self.config.stop)


class StopTexts:
    """Detects stop texts that span several tokens.

    Only a token with the last character of a stop text (or a part of a character) can complete one. For such a token the
    last tokens are decoded. A text of n characters lies within the last n + 8 tokens: each token holds at least one
    character, except those of an unfinished character.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any):
        self._stop = tuple(stop)
        self._last = {text[-1] for text in stop}
        self._tokenizer = tokenizer
        self._window = max(map(len, stop)) + 8
        self._can_complete: dict[int, bool] = {}

    def end(self, tokens: Sequence[int]) -> bool:
        """Whether the last token completes a stop text."""
        last = tokens[-1]
        if last not in self._can_complete:
            self._can_complete[last] = self._may_complete(self._decode([last]))
        if not self._can_complete[last]:
            return False
        tail = self._decode(tokens[-self._window :])
        return any(text in tail for text in self._stop)

    def _may_complete(self, piece: str) -> bool:
        """Whether a token can complete a stop text. Spaces always can: a tokenizer may drop them at the start of a text."""
        return "\ufffd" in piece or any(last in piece or last.isspace() for last in self._last)

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def with_stops(config: GenerationConfig, chat: Chat | None) -> tuple[GenerationConfig, list[int]]:
    """Return (decoding settings with the chat template's end of turn as stop text, its end-of-turn token ids)."""
    stop_ids, stop_texts = chat.stops() if chat is not None else ([], [])
    texts = [*config.stop, *(text for text in stop_texts if text not in config.stop)]
    return config.model_copy(update={"stop": texts}), stop_ids


def until(ends: frozenset[int], tokens: Sequence[int]) -> list[int]:
    """Return the tokens before the first end token."""
    return list(tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))])


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return the text up to its first stop text."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)] if places else text
