"""Decoding: how the next token is chosen, and what ends a completion.

Whatever computes the logits, and together with whichever other answers, asks here.  A drawn token hangs on the seed, the
example and the sample's number alone: each answer has its own stream of random numbers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lora_ns.config import GenerationConfig
from lora_ns.data.chat_template import Chat
from lora_ns.data.tokenizer import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class TokenSequence:
    """A prompt and its completion so far."""

    prompt: Sequence[int]
    key: str
    """Example id and sample number."""
    tokens: list[int] = field(default_factory=list)
    """Generated tokens, without the one that ended the completion."""
    ended: bool = False
    _stream: random.Random | None = field(default=None, repr=False)

    def begin_again(self) -> None:
        """Discard the generated tokens."""
        self.tokens, self.ended, self._stream = [], False, None

    def draw(self, seed: int) -> float:
        """The next random number of this sequence, in [0, 1)."""
        if self._stream is None:
            self._stream = random.Random(f"{seed} {self.key}")
        return self._stream.random()


class Decoder:
    """Applies the decoding settings.  ends: tokens that end a completion."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, ends: frozenset[int]):
        self.tokenizer = tokenizer
        self.config = config
        self.ends = ends
        self._stops = StopTexts(config.stop, tokenizer) if config.stop else None

    @property
    def is_plain_greedy(self) -> bool:
        """Whether decoding is greedy without any penalty."""
        return not self.config.do_sample and self.config.repetition_penalty == 1.0

    def choose(self, logits: Any, answers: Sequence[TokenSequence]) -> Any:
        """The next token of each sequence [n].  logits [n, V]."""
        scores = self._penalised(logits.float(), answers)
        return self._drawn(scores, answers) if self.config.do_sample else scores.argmax(-1)

    def _penalised(self, scores: Any, answers: Sequence[TokenSequence]) -> Any:
        """Repetition penalty (Keskar et al. 2019, arXiv 1909.05858) over prompt and completion, never over padding."""
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
        """Sample by inverse transform: the token whose cumulative probability covers the random number."""
        import torch

        for warper in self._warpers:
            scores = warper(None, scores)
        cumulated = scores.double().softmax(-1).cumsum(-1)
        numbers = [answer.draw(self.config.seed) for answer in answers]
        wanted = torch.tensor(numbers, dtype=torch.double, device=scores.device)[:, None] * cumulated[:, -1:]
        return torch.searchsorted(cumulated, wanted, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)

    @cached_property
    def _warpers(self) -> list[Any]:
        """transformers' logits processors, in its order."""
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
        """Add a token to a sequence, or end it."""
        if token in self.ends:
            answer.ended = True
            return
        answer.tokens.append(token)
        answer.ended = len(answer.tokens) >= self.config.max_new_tokens or self.is_stopped(answer.tokens)

    def is_stopped(self, tokens: Sequence[int]) -> bool:
        """Whether the last token completes a stop text."""
        return self._stops is not None and self._stops.end(tokens)

    def text(self, answer: TokenSequence) -> str:
        """The completion up to the first stop text."""
        decoded = decode(self.tokenizer, answer.tokens)
        return cut_at(decoded, self.config.stop)


class StopTexts:
    """Finds stop texts during generation, across token borders.

    Only a token that holds the last character of a stop text (or a part of a character) can complete one; for those the
    last tokens are decoded: a text of n characters lies within the last n + 8, as each token but those of an unfinished
    character is at least one character.
    """

    def __init__(self, stop: Sequence[str], tokenizer: PreTrainedTokenizerBase):
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
        """Spaces always count, because a tokenizer may drop them at the beginning of a text."""
        return "\ufffd" in piece or any(last in piece or last.isspace() for last in self._last)

    def _decode(self, tokens: Sequence[int]) -> str:
        return decode(self._tokenizer, tokens)


def with_stops(config: GenerationConfig, chat: Chat | None) -> tuple[GenerationConfig, list[int]]:
    """The decoding settings with the chat template's end of turn, as a stop text or as tokens."""
    stop_ids, stop_texts = chat.stops() if chat is not None else ([], [])
    texts = [*config.stop, *(text for text in stop_texts if text not in config.stop)]
    return config.model_copy(update={"stop": texts}), stop_ids


def until(ends: frozenset[int], tokens: Sequence[int]) -> list[int]:
    """The tokens before the first end token."""
    return list(tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))])


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return the text up to its first stop text."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)] if places else text
