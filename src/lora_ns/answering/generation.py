"""Text from a causal model, in batches: prompts sorted by length, padded on the left, each stopped where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lora_ns.config import GenerationConfig


def generate(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[int]],
    config: GenerationConfig,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
    stop_ids: Sequence[int] = (),
    streamer: Any = None,
) -> list[list[str]]:
    """config.num_samples completions of each prompt, cut at stop texts and the end mark, in the order of the prompts.

    stop_ids: tokens that end an answer beside the end of sequence (a chat template's end of turn).  streamer: is handed
    each token of a single prompt's completion as it comes.
    """
    import torch

    torch.manual_seed(config.seed)
    settings = _settings(model, tokenizer, config, stop_ids)
    order = sorted(range(len(prompt_ids)), key=lambda i: (-len(prompt_ids[i]), i))
    texts: list[list[str]] = [[] for _ in prompt_ids]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        input_ids, attention = _left_padded([prompt_ids[i] for i in chosen], tokenizer.pad_token_id, model.device)
        stopping = [StopTexts(config.stop, tokenizer, input_ids.shape[1])] if config.stop else None
        with torch.inference_mode():
            output = model.generate(
                input_ids=input_ids,
                attention_mask=attention,
                generation_config=settings,
                stopping_criteria=stopping,
                **({"streamer": streamer} if streamer is not None else {}),
            )
        completions = _decode(output[:, input_ids.shape[1] :], tokenizer, config)
        for place, i in enumerate(chosen):
            texts[i] = completions[place * config.num_samples : (place + 1) * config.num_samples]
        progress(len(chosen))
    return texts


def _settings(model: Any, tokenizer: Any, config: GenerationConfig, stop_ids: Sequence[int]) -> Any:
    """Every decoding setting, stated; the model's own generation_config.json is put aside so that nothing leaks in."""
    from transformers import GenerationConfig as Settings

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    ends = {tokenizer.eos_token_id, *_as_list(plain.config.eos_token_id), *stop_ids} - {None}
    sampling = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    settings = Settings(
        max_new_tokens=config.max_new_tokens,
        do_sample=config.do_sample,
        num_beams=config.num_beams,
        repetition_penalty=config.repetition_penalty,
        num_return_sequences=config.num_samples,
        eos_token_id=sorted(ends) or None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,
        **(sampling if config.do_sample else {}),
    )
    for owner in {id(m): m for m in (model, plain)}.values():
        owner.generation_config = settings
    return settings


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Any, Any]:
    """input_ids and attention_mask [B, T]."""
    import torch

    longest = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    attention = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        input_ids[i, longest - len(row) :] = torch.tensor(list(row))
        attention[i, longest - len(row) :] = 1
    return input_ids.to(device), attention.to(device)


class StopTexts:
    """Marks a row as done once its new text holds a stop text.

    Only the last tokens are decoded at each step: a stop text of n characters lies within the last n + 8 tokens, as each
    token but those of an unfinished character is at least one character.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any, prompt_length: int):
        self._stop = tuple(stop)
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        self._window = max(map(len, stop)) + 8

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        start = max(self._prompt_length, input_ids.shape[1] - self._window)
        tails = self._tokenizer.batch_decode(input_ids[:, start:], skip_special_tokens=True)
        done = [any(text in tail for text in self._stop) for tail in tails]
        return torch.tensor(done, device=input_ids.device)


def _decode(new_ids: Any, tokenizer: Any, config: GenerationConfig) -> list[str]:
    texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [cut_at(text, config.stop) for text in texts]


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text up to its first stop text."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)] if places else text
