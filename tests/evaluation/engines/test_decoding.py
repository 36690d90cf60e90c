"""What ends an answer, token by token; how a token is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_ns.config import GenerationConfig
from lora_ns.evaluation.engines.decoding import Decoder, StopTexts, TokenSequence


@pytest.fixture
def tokenizer(tiny_causal: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_causal)


@pytest.mark.parametrize("stop", ["Question:", "e cat sat", "#", "####", "\n\n", "t ", "é", "12\nA"])
def test_a_stop_text_is_found_at_the_token_that_completes_it(stop: str, tokenizer: Any) -> None:
    """Wherever the borders of the tokens lie: behind openings of many lengths, whole words and single bytes."""
    for opening in ("", "a", " the mat", "12 ####"[: 0 if "#" in stop else None], "on the é mat"[: 3 if stop in "té " else None]):
        said = tokenizer(f"{opening}{stop} and more", add_special_tokens=False)["input_ids"]
        texts = [tokenizer.decode(said[: n + 1], clean_up_tokenization_spaces=False) for n in range(len(said))]
        stops = StopTexts([stop], tokenizer)
        found = [stops.end(said[: n + 1]) for n in range(len(said))]
        assert found.index(True) == next(n for n, text in enumerate(texts) if stop in text)


def test_tokens_are_drawn_as_often_as_they_are_likely(tokenizer: Any) -> None:
    """Against the probabilities that temperature and top_k leave: chi-squared within its 99.9 % range."""
    import torch
    from scipy.stats import chi2

    logits = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 3
    decoder = Decoder(tokenizer, GenerationConfig(do_sample=True, temperature=2.0, top_k=6), frozenset())
    drawn = decoder.choose(logits.expand(2000, -1), [TokenSequence([1], f"{number} 0") for number in range(2000)]).tolist()
    values, tokens = logits.topk(6)
    expected = ((values / 2.0).softmax(-1) * 2000).tolist()
    seen = [drawn.count(token) for token in tokens.tolist()]
    assert sum(seen) == 2000
    assert sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True)) < chi2.ppf(0.999, 5)


def test_an_answer_holds_neither_its_end_mark_nor_more_than_it_may(tokenizer: Any) -> None:
    decoder = Decoder(tokenizer, GenerationConfig(max_new_tokens=3), frozenset([9]))
    short, long = TokenSequence([1], "0 0"), TokenSequence([1], "1 0")
    for token in (5, 6, 9):
        decoder.take(short, token)
    for token in (5, 6, 7):
        assert not long.ended
        decoder.take(long, token)
    assert (short.tokens, short.ended, long.tokens, long.ended) == ([5, 6], True, [5, 6, 7], True)
