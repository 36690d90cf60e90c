"""Answers by transformers' own `generate`, in batches: for beam search, a text that streams, and models that keep more in
mind than keys and values.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lora_ns.evaluation.engines.decoding import Decoder, TokenSequence, until
from lora_ns.models.base_model import without_peft


class HFGenerateEngine:
    """A model prepared for `generate`.  streamer: receives each token of a single completion."""

    def __init__(self, model: Any, decoder: Decoder, streamer: Any = None):
        self._model = model
        self._decoder = decoder
        self._streamer = streamer
        self._settings = _settings(model, decoder)

    def answer(self, answers: Sequence[TokenSequence], size: int, done: Callable[[TokenSequence], None]) -> None:
        """Complete all sequences, `size` at a time, longest prompts first.  done: called after each."""
        import torch

        config = self._decoder.config
        draws_itself = config.num_beams > 1 and config.do_sample
        if draws_itself:
            size = 1  # transformers samples for the whole batch at once
        order = sorted(answers, key=lambda answer: (-len(answer.prompt), answer.key))
        for batch in _batches(order, size, like=_pads_between(self._model)):
            input_ids, attention = _left_padded([a.prompt for a in batch], self._pad, self._model.device)
            if draws_itself:
                torch.manual_seed(int(batch[0].draw(config.seed) * 2**53))
            with torch.inference_mode():
                output = self._model.generate(
                    input_ids=input_ids,
                    attention_mask=attention,
                    generation_config=self._settings,
                    logits_processor=self._choosing(batch, input_ids.shape[1]),
                    stopping_criteria=self._stopping(input_ids.shape[1]),
                    **({"streamer": self._streamer} if self._streamer is not None else {}),
                )
            for answer, tokens in zip(batch, output[:, input_ids.shape[1] :].tolist(), strict=True):
                answer.tokens = until(self._decoder.ends, tokens)
                answer.ended = True
                done(answer)

    @property
    def _pad(self) -> int:
        return int(self._decoder.tokenizer.pad_token_id)

    def _choosing(self, batch: Sequence[TokenSequence], start: int) -> Any:
        """Mask all scores but that of the token the decoder chooses.  Beam search chooses itself."""
        if self._decoder.config.num_beams > 1 or self._decoder.is_plain_greedy:
            return None
        from transformers import LogitsProcessorList

        def only_chosen(input_ids: Any, scores: Any) -> Any:
            for answer, tokens in zip(batch, input_ids[:, start:].tolist(), strict=True):
                answer.tokens = tokens
            chosen = self._decoder.choose(scores, batch)
            return scores.new_full(scores.shape, float("-inf")).scatter(1, chosen[:, None], 0.0)

        return LogitsProcessorList([only_chosen])

    def _stopping(self, start: int) -> Any:
        """Mark a row as done once its completion contains a stop text."""
        if not self._decoder.config.stop:
            return None
        import torch
        from transformers import StoppingCriteriaList

        def stopped(input_ids: Any, scores: Any, **_: Any) -> Any:
            done = [self._decoder.is_stopped(row) for row in input_ids[:, start:].tolist()]
            return torch.tensor(done, device=input_ids.device)

        return StoppingCriteriaList([stopped])


def _settings(model: Any, decoder: Decoder) -> Any:
    """Every decoding setting, stated.  The model's generation_config.json is not used."""
    from transformers import GenerationConfig as Settings

    config, tokenizer = decoder.config, decoder.tokenizer
    plain = without_peft(model)
    by_beams: dict[str, Any] = {}
    if config.num_beams > 1:
        drawn = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
        by_beams = {
            "do_sample": config.do_sample,
            "num_beams": config.num_beams,
            "repetition_penalty": config.repetition_penalty,
            **(drawn if config.do_sample else {}),
        }
    settings = Settings(
        max_new_tokens=config.max_new_tokens,
        eos_token_id=sorted(decoder.ends) or None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        use_cache=bool(getattr(plain.config, "use_cache", True)),
        **{"do_sample": False, "num_beams": 1, **by_beams},
    )
    for owner in {id(m): m for m in (model, plain)}.values():
        owner.generation_config = settings
    return settings


def _pads_between(model: Any) -> bool:
    """Whether left padding would separate a soft prompt from the prompt's tokens.

    PEFT then counts positions over the padding.
    """
    if not hasattr(model, "peft_config") or not model.active_peft_config.is_prompt_learning:
        return False
    return str(model.active_peft_config.peft_type.value) not in ("PREFIX_TUNING", "CARTRIDGE")


def _batches(order: Sequence[TokenSequence], size: int, *, like: bool) -> Iterator[list[TokenSequence]]:
    """Batches of at most `size` sequences.  like: only prompts of equal length share a batch."""
    batch: list[TokenSequence] = []
    for answer in order:
        if batch and (len(batch) == size or (like and len(answer.prompt) != len(batch[0].prompt))):
            yield batch
            batch = []
        batch.append(answer)
    yield batch


def _left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Any, Any]:
    """Return left-padded input_ids and attention_mask, [B, T]."""
    import torch

    longest = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    attention = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        input_ids[i, longest - len(row) :] = torch.tensor(list(row))
        attention[i, longest - len(row) :] = 1
    return input_ids.to(device), attention.to(device)
