"""Which part of a conversation carries loss: the assistant's words and the mark that ends its turn, by any template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import causal_task

from lora_ns.config import check, merge
from lora_ns.data.chat_template import Chat, chat_of
from lora_ns.data.encoding import Dropped, Encoded, encode_prompts, encode_rows
from lora_ns.data.prompts import NoConversation
from lora_ns.errors import ConfigError, DataError

WITHOUT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKS_WORDS_ONLY = WITH.replace(
    "{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}", "{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>\n' }}"
)
MARKS_TOO_MUCH = (  # TRL's template for Qwen 2.5 marks the line end before the words, and that after the end mark
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ '\n' + m['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "{{ '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETS_THOUGHTS = (  # as Qwen 3: only the last answer is written with its thoughts
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
    "{{ '<think></think>' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CLOSES_WITH_EOS = WITHOUT.replace("{% endfor %}", "{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
TEXT_ONLY = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% if m['role'] == 'assistant' %}{{ ' END' }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
NO_END = TEXT_ONLY.replace("{{ ' END' }}", "")

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 3 plus 4?"},
    {"role": "assistant", "content": "7"},
    {"role": "user", "content": "And the cat?"},
    {"role": "assistant", "content": "  on the mat\n"},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_causal: Path) -> Any:
    """The tiny tokenizer with ChatML's tokens, of which the end mark is not its end of sequence."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_causal)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def supervised(tokenizer: Any, template: str, turns: list[dict[str, str]] = TURNS) -> list[list[str]]:
    """The supervised texts of each example."""
    config = causal_task("x")
    config["dataset"] = {"name": "x", "format": "messages", "chat_template": template, "max_length": 400}
    dataset = check(config, "test").dataset
    (result,) = encode_rows([{"messages": turns}], dataset, tokenizer)
    assert isinstance(result, list), result
    return [[tokenizer.decode(piece) for piece in pieces(example)] for example in result]


def pieces(example: Encoded) -> list[list[int]]:
    ids, spans = example.columns["input_ids"], example.columns["spans"]
    return [ids[a:b] for a, b in zip(spans[::2], spans[1::2], strict=True)]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (WITHOUT, [["7<|im_end|>", "  on the mat\n<|im_end|>"]]),
        (WITH, [["7<|im_end|>", "  on the mat\n<|im_end|>"]]),
        (MARKS_WORDS_ONLY, [["7<|im_end|>", "  on the mat\n<|im_end|>"]]),
        (MARKS_TOO_MUCH, [["7<|im_end|>", "  on the mat\n<|im_end|>"]]),
        (CLOSES_WITH_EOS, [["7<|im_end|>", "  on the mat\n<|im_end|>"]]),
        ("tulu", [["7</s>", "  on the mat\n</s>"]]),
        (FORGETS_THOUGHTS, [["<think></think>7<|im_end|>"], ["<think></think>  on the mat\n<|im_end|>"]]),
        (TEXT_ONLY, [["7 END", "  on the mat\n END</s>"]]),
        (NO_END, [["7", "  on the mat</s>"]]),
    ],
    ids=["plain", "marked", "words marked", "too much marked", "eos at the end", "tulu", "thoughts", "text", "no end"],
)
def test_loss_is_on_the_assistants_words_and_their_end_mark(tokenizer: Any, template: str, expected: list[list[str]]) -> None:
    assert supervised(tokenizer, template) == expected


@pytest.mark.parametrize("template", [WITHOUT, WITH, MARKS_TOO_MUCH, CLOSES_WITH_EOS, "tulu", FORGETS_THOUGHTS])
def test_a_turn_of_weight_0_carries_no_loss(tokenizer: Any, template: str) -> None:
    whole = supervised(tokenizer, template)
    for unweighted, learnt in ((2, 1), (4, 0)):
        turns = [{**turn, "weight": 0} if place == unweighted else turn for place, turn in enumerate(TURNS)]
        (only,) = supervised(tokenizer, template, turns)
        assert only == [[text for example in whole for text in example][learnt]]


@pytest.mark.parametrize(
    ("weights", "reason"), [((0, 0), "no turn of the assistant's has weight 1"), ((1, 0.5), "a turn of weight 0.5")]
)
def test_weights_that_leave_nothing_or_are_none_drop_the_row(tokenizer: Any, weights: tuple, reason: str) -> None:
    turns = [*TURNS[:2], {**TURNS[2], "weight": weights[0]}, TURNS[3], {**TURNS[4], "weight": weights[1]}]
    config = check(causal_task("x", dataset={"name": "x", "format": "messages", "chat_template": WITHOUT}), "test")
    (result,) = encode_rows([{"messages": turns}], config.dataset, tokenizer)
    assert isinstance(result, Dropped) and reason in result.reason


@pytest.mark.parametrize("template", [WITHOUT, WITH, MARKS_TOO_MUCH, CLOSES_WITH_EOS, "tulu", FORGETS_THOUGHTS])
def test_a_first_answers_prompt_has_the_ids_that_generation_starts_from(tokenizer: Any, template: str) -> None:
    config = causal_task("x")
    config["dataset"] = {"name": "x", "format": "messages", "chat_template": template, "max_length": 400}
    dataset = check(config, "test").dataset
    (result,) = encode_rows([{"messages": TURNS}], dataset, tokenizer)
    assert isinstance(result, list)
    chat = chat_of(dataset, tokenizer)
    (asked,) = encode_prompts([TURNS[:2]], tokenizer, chat)
    assert result[0].columns["input_ids"][: result[0].columns["spans"][0]] == asked
    (asked_again,) = encode_prompts([TURNS[:4]], tokenizer, chat)
    ids, spans = result[-1].columns["input_ids"], result[-1].columns["spans"]
    assert ids[: spans[-2]] == asked_again


def test_where_a_token_would_bridge_prompt_and_answer_they_are_cut_apart(tokenizer: Any) -> None:
    """`##` + `## 7` would be the one token `####`."""
    template = (
        "{% for m in messages %}{{ m['content'] + (' ##' if m['role'] == 'user' else '\n') }}{% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    turns = [{"role": "user", "content": "3 plus 4?"}, {"role": "assistant", "content": "## 7"}]
    chat = Chat(tokenizer, template)
    (asked,) = encode_prompts([turns[:1]], tokenizer, chat)
    joint = tokenizer("3 plus 4? #### 7", add_special_tokens=False)["input_ids"]
    assert joint[: len(asked)] != asked, "the fixture's tokenizer should bridge here"
    config = causal_task("x")
    config["dataset"] = {"name": "x", "format": "messages", "chat_template": template}
    (result,) = encode_rows([{"messages": turns}], check(config, "test").dataset, tokenizer)
    assert isinstance(result, list)
    ids, spans = result[0].columns["input_ids"], result[0].columns["spans"]
    assert ids[: spans[0]] == asked and result[0].apart
    assert tokenizer.decode(ids[spans[0] :]) == "## 7</s>"


@pytest.mark.parametrize(
    ("template", "ids", "texts"),
    [(WITHOUT, ["<|im_end|>"], []), ("tulu", ["</s>"], []), (TEXT_ONLY, [], ["END"]), (NO_END, [], [])],
)
def test_generation_stops_at_the_mark_that_ends_a_turn(tokenizer: Any, template: str, ids: list, texts: list) -> None:
    found_ids, found_texts = Chat(tokenizer, template).stops()
    assert (tokenizer.convert_ids_to_tokens(found_ids), found_texts) == (ids, texts)


def test_a_tokenizer_without_a_template_says_what_to_do(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"Set dataset\.chat_template to tulu"):
        Chat(tokenizer, "tokenizer")


def test_a_template_that_refuses_a_role_drops_the_row_and_says_so(tokenizer: Any) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + WITHOUT
    with pytest.raises(NoConversation, match="the chat template refuses it: no system role"):
        Chat(tokenizer, refusing).answers(TURNS)
    with pytest.raises(DataError, match="prompt 0 cannot be asked: the chat template refuses it"):
        encode_prompts([TURNS[:2]], tokenizer, Chat(tokenizer, refusing))
    with pytest.raises(ConfigError, match=r"dataset\.chat_template: line 1"):
        Chat(tokenizer, "{% if %}").answers(TURNS)


def test_a_template_whose_generation_prompt_is_no_part_of_a_conversation_drops_the_row(tokenizer: Any) -> None:
    prefilled = WITHOUT.replace("'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>assistant\n<think>' }}{% endif %}")
    with pytest.raises(NoConversation, match="opens an answer differently"):
        Chat(tokenizer, prefilled).answers(TURNS)


def test_a_conversation_cut_by_max_length_keeps_the_answers_inside(tokenizer: Any) -> None:
    config = causal_task("x")
    config["dataset"] = {"name": "x", "format": "messages", "chat_template": WITHOUT, "max_length": 400}
    whole = check(config, "test").dataset
    (full,) = encode_rows([{"messages": TURNS}], whole, tokenizer)
    assert isinstance(full, list)
    start, end = full[0].columns["spans"][:2]
    (cut,) = encode_rows([{"messages": TURNS}], whole.model_copy(update={"max_length": end + 3}), tokenizer)
    assert isinstance(cut, list)
    assert (cut[0].columns["spans"], cut[0].truncated, cut[0].supervised) == ([start, end], True, end - start)
    (lost,) = encode_rows([{"messages": TURNS}], whole.model_copy(update={"max_length": start}), tokenizer)
    assert not isinstance(lost, list) and "prompt alone fills max_length" in lost.reason


def test_a_template_file_becomes_part_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "my.jinja").write_text(WITHOUT)
    config = causal_task("x")
    config["dataset"] = {"name": "x", "format": "messages", "chat_template": "my.jinja"}
    assert check(config, "test", folder=tmp_path).dataset.chat_template == WITHOUT
    with pytest.raises(ConfigError, match=r"there is no file 'my\.jinja'"):
        check(config, "test", folder=tmp_path / "elsewhere")
    assert json.dumps(check(config, "test", folder=tmp_path).model_dump())


WRITES_THE_DATE = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}" + WITHOUT
MAY_BE_TOLD_A_DATE = (  # as Llama 3.1's
    "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ 'Today: ' + date_string + '\n' }}"
    + WITHOUT
)


def dated(model: Path, template: str, **options: Any) -> Any:
    data = {"prompt_template": "{question}", "response_template": "{answer}", "chat_template": template}
    return check(merge(causal_task(model), {"dataset": data | {"chat_template_options": options}}), "test")


def test_a_template_that_writes_todays_date_is_told_which_day_that_is(tokenizer: Any, tiny_causal: Path) -> None:
    with pytest.raises(ConfigError, match=r"writes today's date"):
        chat_of(dated(tiny_causal, WRITES_THE_DATE).dataset, tokenizer)
    chat = chat_of(dated(tiny_causal, WRITES_THE_DATE, date="2026-01-31").dataset, tokenizer)
    assert chat is not None and chat.text(TURNS[1:3]).startswith("Today: 31 Jan 2026\n")


@pytest.mark.parametrize(("options", "day"), [({}, "26 Jul 2024"), ({"date": "2026-01-31"}, "31 Jan 2026")])
def test_a_template_with_a_date_of_its_own_writes_that_unless_it_is_told_another(
    tokenizer: Any, tiny_causal: Path, options: dict[str, str], day: str
) -> None:
    chat = chat_of(dated(tiny_causal, MAY_BE_TOLD_A_DATE, **options).dataset, tokenizer)
    assert chat is not None and chat.text(TURNS[1:3]).startswith(f"Today: {day}\n")


def test_options_reach_the_template_and_the_names_of_tokens_and_scores(
    workplace: Path, tokenizer: Any, tiny_causal: Path
) -> None:
    from lora_ns.store.paths import Store
    from lora_ns.store.run import Run

    template = "{{ 'loudly\n' if loud else '' }}" + WITHOUT
    plain, loud = dated(tiny_causal, template), dated(tiny_causal, template, loud=True)
    chats = [chat_of(config.dataset, tokenizer) for config in (plain, loud)]
    assert [chat.text(TURNS[1:3]).startswith("loudly") for chat in chats if chat] == [False, True]
    runs = [Run(config, Store()) for config in (plain, loud, dated(tiny_causal, template, loud=True, date="2026-01-31"))]
    assert len({run.tokens for run in runs}) == 3 == len({run.evaluations[0].name for run in runs})


def test_a_date_that_is_none_is_refused(tiny_causal: Path) -> None:
    with pytest.raises(ConfigError, match="chat_template_options: date: expected YYYY-MM-DD, found 'tomorrow'"):
        dated(tiny_causal, WRITES_THE_DATE, date="tomorrow")
