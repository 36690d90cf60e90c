"""Encode rows and prompts as token ids, with the positions that carry loss.

prompt  "Question: 2+3?\\nAnswer:"      response " 5"
input_ids  [bos] Question : 2 + 3 ? \\n Answer : ␣5 [eos]
spans                                             ^^ ^^^^^   supervised: the response and its end

A prompt has the same ids in training as in generation.  Prompt and response are tokenised together.  They are tokenised
separately only if a token would span both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.config import DatasetConfig
from lora_ns.data.chat_template import Chat, chat_of
from lora_ns.data.labels import has_label, label_of, number_of
from lora_ns.data.prompts import (
    NoConversation,
    Prompt,
    Row,
    conversation_of,
    learnt_turns,
    prompt_of,
    response_of,
    text_of,
    texts_of,
)
from lora_ns.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """One training example.

    columns: input_ids and the supervised spans [start, end, …]; or input_ids, token_type_ids and label.
    """

    columns: dict[str, Any]
    supervised: int
    truncated: bool = False
    apart: bool = False
    """Whether prompt and response were tokenised separately, because a token would have spanned both."""


@dataclass(frozen=True)
class Dropped:
    """A row that gives no training example."""

    reason: str


Result = list[Encoded] | Dropped
"""The examples of one row (more than one for long texts and some chat templates), or why there are none."""


def encode_prompts(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, chat: Chat | None = None) -> list[list[int]]:
    """Return the prompts' token ids for generation: with opening special tokens, without a closing one."""
    texts, spoken = prompt_texts(prompts, chat), any(not isinstance(prompt, str) for prompt in prompts)
    encoded = _ids(texts, tokenizer, special=not spoken)  # a chat template writes its own special tokens
    if spoken:
        return encoded
    closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    return [ids[:-1] if ids and ids[-1] in closing else ids for ids in encoded]


def _ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, special: bool) -> list[list[int]]:
    """Return the token ids of each text.  special: add the tokenizer's special tokens."""
    if not tokenizer.is_fast:
        return tokenizer(texts, add_special_tokens=special, return_attention_mask=False)["input_ids"]
    core = tokenizer.backend_tokenizer
    core.no_truncation()  # tokenizer.json may switch both on, as for sentence encoders
    core.no_padding()
    return [found.ids for found in core.encode_batch_fast(list(texts), add_special_tokens=special)]


def prompt_texts(prompts: Sequence[Prompt], chat: Chat | None) -> list[str]:
    """Return the prompts as text; a conversation ends in the generation prompt.  Raises DataError if a template fails."""
    texts = []
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            assert chat is not None, "a conversation needs a chat template"
            try:
                prompt = chat.text(prompt, ask=True)
            except NoConversation as reason:
                raise DataError(f"prompt {number} cannot be asked: {reason}.") from None
        texts.append(prompt)
    return texts


def encode_continuations(
    prompts: Sequence[Prompt], answers: Sequence[str], tokenizer: PreTrainedTokenizerBase, chat: Chat | None = None
) -> list[tuple[list[int], list[int]]]:
    """Return (input_ids, [start, end] of the answer) for each prompt and answer, without an end-of-sequence token."""
    joint = [prompt + answer for prompt, answer in zip(prompt_texts(prompts, chat), answers, strict=True)]
    prompt_ids = encode_prompts(prompts, tokenizer, chat)
    spoken = any(not isinstance(prompt, str) for prompt in prompts)
    joint_ids = tokenizer(joint, add_special_tokens=False)["input_ids"] if spoken else encode_prompts(joint, tokenizer)
    encoded = []
    for head, whole, answer in zip(prompt_ids, joint_ids, answers, strict=True):
        ids, _ = _joined(head, whole, answer, tokenizer)
        encoded.append((ids, [len(head), len(ids)]))
    return encoded


def _joined(prompt: list[int], joint: list[int], answer: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], bool]:
    """Return (ids of prompt and answer, whether tokenised separately).  joint: ids of both tokenised together."""
    if joint[: len(prompt)] == prompt:
        return joint, False
    return [*prompt, *tokenizer(answer, add_special_tokens=False)["input_ids"]], True


def encode_rows(rows: Sequence[Row], dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[Result]:
    """Yield the result of each row of a causal_lm task, in order."""
    chat = chat_of(dataset, tokenizer)
    if dataset.format == "text":
        return _encode_texts(rows, dataset, tokenizer)
    if chat is not None:
        return _encode_conversations(rows, dataset, chat)
    return _encode_responses(rows, dataset, tokenizer)


def _encode_responses(rows: Sequence[Row], dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[Result]:
    prompts = [str(prompt_of(row, dataset)) for row in rows]
    responses = [response_of(row, dataset) or "" for row in rows]
    prompt_ids = encode_prompts(prompts, tokenizer)
    joint_ids = encode_prompts([p + r for p, r in zip(prompts, responses, strict=True)], tokenizer)
    end = tokenizer.eos_token_id
    for prompt, joint, response in zip(prompt_ids, joint_ids, responses, strict=True):
        if not response.strip():
            yield Dropped("empty response")
            continue
        ids, apart = _joined(prompt, joint, response, tokenizer)
        ids = [*ids, end]
        yield _within([(ids, [(len(prompt), len(ids))], apart)], dataset.max_length)


def _encode_texts(rows: Sequence[Row], dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[Result]:
    """Yield examples in which every token carries loss.  A long text is split into examples of max_length tokens."""
    texts = [text_of(row, dataset) for row in rows]
    for text, opened in zip(texts, encode_prompts(texts, tokenizer), strict=True):
        if not text.strip():
            yield Dropped("empty text")
            continue
        ids = [*opened, tokenizer.eos_token_id]
        windows = [ids[i : i + dataset.max_length] for i in range(0, len(ids), dataset.max_length)]
        yield [Encoded({"input_ids": w, "spans": [0, len(w)]}, len(w)) for w in windows if len(w) > 1]


def _encode_conversations(rows: Sequence[Row], dataset: DatasetConfig, chat: Chat) -> Iterator[Result]:
    for row in rows:
        try:
            texts = chat.answers(conversation_of(row, dataset), learnt_turns(row, dataset))
        except NoConversation as reason:
            yield Dropped(str(reason))
            continue
        yield _within([_encode_answers(text, spans, chat.tokenizer) for text, spans in texts], dataset.max_length)


def _encode_answers(
    text: str, spans: list[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[tuple[int, int]], bool]:
    """Return (ids, token spans, whether tokenised in pieces).  spans: supervised character spans of the text."""
    cuts = [place for span in spans for place in span]
    encoded = tokenizer(text, add_special_tokens=False)
    whole, found = encoded["input_ids"], [_token_at(encoded, cut, text) for cut in cuts]
    asked = tokenizer(text[: cuts[0]], add_special_tokens=False)["input_ids"]
    places = [place for place in found if place is not None]
    apart = len(places) < len(cuts) or whole[: places[0]] != asked
    if apart:
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        ids = [tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else [] for piece in pieces]
        places = [sum(map(len, ids[: n + 1])) for n in range(len(cuts))]
        whole = [token for piece in ids for token in piece]
    tokens = list(zip(places[::2], places[1::2], strict=True))
    if whole[-1] not in tokenizer.all_special_ids and whole[-1] not in tokenizer.added_tokens_decoder:
        whole = [*whole, tokenizer.eos_token_id]
        tokens[-1] = (tokens[-1][0], len(whole))
    return whole, tokens, apart


def _token_at(encoded: Any, cut: int, text: str) -> int | None:
    """The index of the token that starts at character `cut`.  None if a token spans it, or for a slow tokenizer."""
    if cut == len(text):
        return len(encoded["input_ids"])
    if not encoded.is_fast:
        return None
    token = encoded.char_to_token(cut)
    return token if token is not None and encoded.token_to_chars(token).start == cut else None


def _within(examples: Sequence[tuple[list[int], list[tuple[int, int]], bool]], max_length: int) -> Result:
    """Truncate the examples to max_length.  Examples without a supervised token left are dropped."""
    kept = []
    for ids, spans, apart in examples:
        inside = [(start, min(end, max_length)) for start, end in spans if start < max_length]
        if inside:
            flat = [place for span in inside for place in span]
            supervised = sum(end - start for start, end in inside)
            columns = {"input_ids": ids[:max_length], "spans": flat}
            kept.append(Encoded(columns, supervised, len(ids) > max_length, apart))
    return kept or Dropped(f"prompt alone fills max_length ({max_length} tokens)")


def encode_labelled(
    rows: Sequence[Row], first: int, dataset: DatasetConfig, task_type: str, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Result]:
    """Yield input_ids, token_type_ids (if the tokenizer has them) and label of each row.  first: the first row's number."""
    texts = [texts_of(row, dataset) for row in rows]
    pairs = [[text[column] for text in texts] for column in range(len(texts[0]))]
    whole = tokenizer(*pairs, truncation=False, verbose=False)
    lengths = [len(ids) for ids in whole["input_ids"]]
    columns = {name: whole[name] for name in ("input_ids", "token_type_ids") if name in whole}
    _shorten(columns, pairs, dataset.max_length, tokenizer)
    label = number_of if task_type == "regression" else label_of
    for offset, row in enumerate(rows):
        if not has_label(row, dataset):
            yield Dropped("no label")
            continue
        wanted = label(row, dataset, first + offset)
        if not any(text.strip() for text in texts[offset]):
            yield Dropped("empty text")
            continue
        example = {name: column[offset] for name, column in columns.items()}
        yield [Encoded({**example, "label": wanted}, 1, len(example["input_ids"]) < lengths[offset])]


def _shorten(columns: dict[str, list[Any]], pairs: list[list[str]], max_length: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Replace examples that are too long by the tokenizer's truncation, in place."""
    long = [place for place, ids in enumerate(columns["input_ids"]) if len(ids) > max_length]
    if not long:
        return
    cut = tokenizer(*([texts[i] for i in long] for texts in pairs), truncation=True, max_length=max_length)
    for name, column in columns.items():
        for place, ids in zip(long, cut[name], strict=True):
            column[place] = ids
