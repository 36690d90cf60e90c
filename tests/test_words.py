"""Words looked up give the tokenizer's own ids, whatever the text; and pipelines that words do not describe have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import causal_task
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lora_ns import words as words_module
from lora_ns.config import check
from lora_ns.fetch import fetch
from lora_ns.run import Run
from lora_ns.store import Store, read_record
from lora_ns.tokenize import tokenize
from lora_ns.words import WordsDiffer, words_of

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Of Llama 3; Qwen 2 has the same but for single digits."""
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Of GPT-4o and its kin, which tell upper from lower case."""


def byte_level(**options: Any) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def cut_by(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, byte_level(use_regex=False)])


KNOWN = {
    "gpt2": byte_level(),
    "llama 3": cut_by(LLAMA3),
    "gpt-4o": cut_by(O200K),
    "own": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
}
UNKNOWN = {
    "spaces in words": pre_tokenizers.Metaspace(),
    "prefix space": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "bert": pre_tokenizers.BertPreTokenizer(),
    "digits together": pre_tokenizers.Sequence([pre_tokenizers.Digits(), byte_level()]),
    "a class unknown here": cut_by(r"\p{P}|[^\p{P}]+"),
    "none": None,
}


def made(pre_tokenizer: Any, normalizer: Any = None, single: str = "<s> $A", dropout: float | None = None) -> Any:
    core = Tokenizer(models.BPE(unk_token="<unk>", dropout=dropout))
    if pre_tokenizer is not None:
        core.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        core.normalizer = normalizer
    core.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<unk>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(
        ["What's 12 plus 345?\n\nIt's 357.  def f(x):\n    return x  # THE CAT SAT ON THE MAT"] * 9, trainer
    )
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 2), ("</s>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


PLAIN = st.text(st.sampled_from("abSTzé'’ \t\n\r.,:#<>/12³'ſ　\x1c\x0b"), max_size=30)
TEXTS = st.lists(
    st.one_of(PLAIN, st.text(max_size=12), st.sampled_from(["<s>", "a</s>b", "It's 12,345!\n\n x"])), max_size=9
)


@pytest.mark.parametrize("single", ["<s> $A", "<s> $A </s>", "$A"])
@pytest.mark.parametrize("name", KNOWN)
def test_every_text_has_the_ids_that_the_tokenizer_gives_it(name: str, single: str) -> None:
    tokenizer = made(KNOWN[name], normalizers.NFC() if single == "$A" else None, single)
    words = words_of(tokenizer)
    assert words is not None

    @settings(max_examples=60, deadline=None)
    @given(TEXTS, st.booleans())
    def check_texts(texts: list[str], special: bool) -> None:
        expected = [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]
        assert words.encode(texts, special=special) == expected

    check_texts()


@pytest.mark.parametrize("name", KNOWN)
def test_plain_text_is_looked_up_and_the_tokenizer_asked_once_a_word(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = made(KNOWN[name])
    words = words_of(tokenizer)
    assert words is not None
    asked: list[str] = []
    by_tokenizer = words._by_tokenizer

    def noted(texts: list[str]) -> list[list[int]]:
        asked.extend(texts)
        return by_tokenizer(texts)

    monkeypatch.setattr(words, "_by_tokenizer", noted)
    words.encode([f"What's {n} plus {n}?\n\n  It is {2 * n}." for n in range(50)] + ["naïve", "a <s>"], special=False)
    assert asked[words_module.CHECKED :] == ["naïve", "a <s>"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_pipeline_that_is_not_known_has_no_words(name: str) -> None:
    assert words_of(made(UNKNOWN[name])) is None


def test_neither_has_one_that_changes_letters_or_draws_lots() -> None:
    assert words_of(made(byte_level(), normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]))) is None
    assert words_of(made(byte_level(), dropout=0.1)) is None


def test_where_words_and_tokenizer_differ_the_tokenizer_alone_is_believed(
    workplace: Path, tiny_causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = check(causal_task(tiny_causal), "test")
    fetch(config.dataset, Store())
    expected = read_record(tokenize(Run(config, Store())))
    monkeypatch.setattr(words_module, "GPT2", r"[A-Za-z]|[^A-Za-z]+")  # as if a release of tokenizers cut otherwise
    tokenizer = made(byte_level())
    with pytest.raises(WordsDiffer):
        words_of(tokenizer).encode(["What is"], special=True)
    again = read_record(tokenize(Run(config, Store(_other_root(Store(), config)))))
    assert again["outputs"] == expected["outputs"] and again["overlap"] == expected["overlap"]


def _other_root(store: Store, config: Any) -> Path:
    root = Path("other")
    fetch(config.dataset, Store(root))
    return root
