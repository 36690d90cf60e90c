"""A row as what a model is asked, without a model."""

from __future__ import annotations

import pytest

from lora_ns.config import DatasetConfig
from lora_ns.data.labels import label_of
from lora_ns.data.prompts import (
    ALPACA,
    NoConversation,
    conversation_of,
    instructed,
    normalised,
    prompt_of,
    question_of,
    render,
    response_of,
    with_examples,
)
from lora_ns.errors import DataError


def data(**fields: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"name": "x", **fields})


PLAIN = data(prompt_template="Question: {q}\nAnswer:\n", response_template=" {a}")
TURNS = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5"}]


def test_a_template_loses_one_line_end_that_yaml_adds_and_keeps_two() -> None:
    assert render("{q}:\n", {"q": "a"}) == "a:"
    assert render("{q}:\n\n", {"q": "a"}) == "a:\n\n"
    assert render("{{{q}}}", {"q": None}) == "{}"


def test_plain_rows_are_put_into_the_templates() -> None:
    row = {"q": "2+3?", "a": 5}
    assert (prompt_of(row, PLAIN), response_of(row, PLAIN)) == ("Question: 2+3?\nAnswer:", " 5")
    assert response_of({"q": "?", "a": ""}, PLAIN) is None


def test_with_a_chat_template_prompt_and_response_are_turns() -> None:
    row, chat = {"q": "2+3?", "a": 5}, PLAIN.model_copy(update={"chat_template": "tulu"})
    assert conversation_of(row, chat) == [
        {"role": "user", "content": "Question: 2+3?\nAnswer:"},
        {"role": "assistant", "content": "5"},
    ]
    assert prompt_of(row, chat) == [{"role": "user", "content": "Question: 2+3?\nAnswer:"}]


def test_an_instruction_takes_the_wording_that_the_model_was_trained_on() -> None:
    assert instructed("Add.", data()) == "Add."
    assert instructed("Add.", data(format="alpaca")) == ALPACA.format(instruction="Add.")
    assert instructed("Add.", data(format="messages", chat_template="tokenizer")) == [{"role": "user", "content": "Add."}]


def test_solved_examples_stand_before_the_question() -> None:
    assert with_examples("Q: 3\nA:", [("Q: 1\nA:", " 1"), ("Q: 2\nA:", " 2")]) == "Q: 1\nA: 1\n\nQ: 2\nA: 2\n\nQ: 3\nA:"
    asked = [{"role": "user", "content": "1+1?"}]
    assert with_examples(asked, [(TURNS[:1], "5")]) == [*TURNS, *asked]


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"messages": TURNS}, {"format": "messages"}),
        ({"messages": [*TURNS, {"role": "user", "content": "thanks"}]}, {"format": "messages"}),
        ({"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}]}, {"format": "sharegpt"}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "2+3?"}]}, TURNS[1]]}, {"format": "messages"}),
    ],
    ids=["messages", "a last turn without answer", "sharegpt", "parts"],
)
def test_conversations_of_every_shape_are_turns_up_to_the_last_answer(row: dict, fields: dict) -> None:
    dataset = data(chat_template="tokenizer", **fields)
    assert conversation_of(row, dataset) == TURNS
    assert (prompt_of(row, dataset), response_of(row, dataset)) == (TURNS[:1], "5")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no turn of the assistant's"),
        (TURNS[:1], "no turn of the assistant's"),
        (TURNS[1:], "the assistant speaks first"),
        ([TURNS[0], {"role": "assistant", "content": " "}], "an empty turn"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}, {"type": "text", "text": "?"}]}, TURNS[1]],
            "a part of the kind 'image_url', which is no text",
        ),
        ([{"role": "wizard", "content": "?"}], "a turn by 'wizard'"),
        ("2+3?", "no list of turns"),
        (None, "no list of turns"),
    ],
)
def test_what_is_no_conversation_says_why(turns: object, reason: str) -> None:
    with pytest.raises(NoConversation, match=reason):
        conversation_of({"messages": turns}, data(format="messages", chat_template="tokenizer"))


def test_a_system_column_of_sharegpt_opens_the_conversation() -> None:
    turns = [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}]
    dataset = data(format="sharegpt")
    for system, opening in (("Be brief.", [{"role": "system", "content": "Be brief."}]), ("", []), (None, [])):
        assert conversation_of({"conversations": turns, "system": system}, dataset) == [*opening, *TURNS]
    own = [{"from": "system", "value": "Be long."}, *turns]
    assert conversation_of({"conversations": own, "system": "x"}, dataset)[0]["content"] == "Be long."


def test_two_texts_are_the_same_but_for_case_punctuation_and_space() -> None:
    assert normalised("  What's  2+3?\n") == normalised("what’s 2+3") == "whats 2+3"
    assert normalised("2 + 3") != normalised("2 - 3")
    for one, other in (("1.5+2", "15+2"), ("1,500", "1 500"), ("1:2", "12"), (".5", "5")):
        assert normalised(one) != normalised(other)
    assert normalised("So: 2, 3. And, 4.") == "so 2 3 and 4"
    assert normalised("Ｗｉｅ groß?") == "wie gross" and normalised("多少？") == "多少"


def test_a_question_is_what_the_row_asks_without_the_templates_words() -> None:
    assert question_of({"q": "2+3?", "a": 5}, PLAIN, "causal_lm") == "2+3?"
    assert question_of({"messages": [*TURNS, *TURNS]}, data(format="messages"), "causal_lm") == "2+3?\n2+3?"
    assert question_of({"instruction": "Add.", "input": "2, 3"}, data(format="alpaca"), "causal_lm") == "Add.\n2, 3"
    assert question_of({"a": "x", "b": None}, data(text_columns=["a", "b"]), "classification") == "x\n"


@pytest.mark.parametrize(("value", "number"), [("no", 0), ("1", 1), ("1.0", 1), (1.0, 1), (True, 1), ("False", 0), (0, 0)])
def test_a_label_is_a_name_or_a_number(value: object, number: int) -> None:
    assert label_of({"label": value}, data(labels=["no", "yes"]), 0) == number
    with pytest.raises(DataError, match=r"row 7: label is 1\.5, .* 0 no, 1 yes"):
        label_of({"label": 1.5}, data(labels=["no", "yes"]), 7)


@pytest.mark.parametrize(
    ("labels", "values"),
    [(["1", "0"], (1, "1", 1.0, "1.0", True)), (["true", "false"], (True, "true")), (["True", "False"], (True, "True"))],
)
def test_a_class_that_is_named_like_a_value_is_found_by_its_name(labels: list[str], values: tuple[object, ...]) -> None:
    assert [label_of({"label": value}, data(labels=labels), 0) for value in values] == [0] * len(values)


@pytest.mark.parametrize(("labels", "value"), [(["1", "2", "3"], 0), (["true", "false"], 1), (["None", "x"], "1.5")])
def test_among_classes_named_like_values_a_number_is_no_place(labels: list[str], value: object) -> None:
    with pytest.raises(DataError, match=f"label is {value!r}, which is none of dataset.labels: "):
        label_of({"label": value}, data(labels=labels), 7)
