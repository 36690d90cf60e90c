"""Settings of the dataset that cannot go together, and what follows from those that can."""

from __future__ import annotations

from typing import Any

import pytest
from support import causal_task

from lora_ns.config import check
from lora_ns.errors import ConfigError


def task(dataset: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**causal_task("org/model"), "dataset": {"name": "org/data", **dataset}, **changes}


HEAD = {"text_columns": ["a"], "labels": ["no", "yes"]}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (task({}), "dataset.response_template: is missing; .* set dataset.format to alpaca"),
        (task({"format": "alpaca", "prompt_template": "{q}"}), "dataset.prompt_template: format alpaca has its own wording"),
        (task({"format": "text", "chat_template": "tulu"}), "format text is learned as it is"),
        (task({"format": "text", "text_columns": ["a", "b"]}), "format text reads one column"),
        (task({"format": "messages", "text_columns": ["a"]}), "belongs to classification, regression and format text"),
        (task({"format": "chat"}), "dataset.format: expected 'plain'"),
        (task({"format": "messages", "chat_template": "tuluu"}), "expected tokenizer, tulu or a .jinja file, found 'tuluu'"),
        (task({"response_template": "{a}", "chat_template": "tulu"}), "with a chat template it is what the user says"),
        (task({"response_template": "{a}", "streaming": True}), "dataset.streaming: needs dataset.max_samples"),
        (task({"text_columns": ["a"]}, task_type="classification"), "dataset.labels: is missing"),
        (task({"labels": ["a", "b"]}, task_type="regression"), "dataset.text_columns: is missing; regression reads"),
        (task(HEAD, task_type="regression"), "dataset.labels: regression predicts a number"),
        (task({**HEAD, "format": "messages"}, task_type="classification"), "its format is plain"),
        (task({**HEAD, "prompt_template": "{a}"}, task_type="classification"), "reads dataset.text_columns as they are"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(raw: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check(raw, "test")


def test_equal_settings_are_equal_whether_said_or_not() -> None:
    said = check(task({"format": "messages", "chat_template": "tokenizer"}), "test")
    assert said == check(task({"format": "messages"}), "test")
    assert check(task({"format": "text"}), "test").dataset.text_columns == ["text"]
    local = check(task({"name": "./a.jsonl", "response_template": "{a}", "streaming": True, "max_samples": 3}), "test")
    assert local.dataset.streaming is False


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"name": "gsm8k", "dataset": {"nmae": "x"}}, "there is no key 'nmae'. Did you mean 'name'?"),
        ({"name": "gsm8k", "dataset": {"max_length": "long"}}, "max_length: expected a whole number"),
        ({"name": "gsm8k", "num_fewshot": -1}, "num_fewshot: expected greater than or equal to 0"),
        ({"name": "gsm8k", "fewshot": 3}, "fewshot: there is no such key. Did you mean 'num_fewshot'?"),
    ],
)
def test_a_benchmark_entry_is_checked_with_the_rest(entry: dict[str, Any], expected: str) -> None:
    raw = task({"response_template": "{a}"}, evaluation={"benchmarks": [entry]})
    with pytest.raises(ConfigError) as caught:
        check(raw, "test")
    assert expected in str(caught.value)
