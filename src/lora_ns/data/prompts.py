"""A row as what a model is asked and what it should answer: text, a conversation, or texts and a class.

plain     {"question": "2+3?", "answer": "5"}            "Question: 2+3?\\nAnswer:"            " 5"
alpaca    {"instruction": "Add.", "input": "2, 3", …}    "Below is an instruction … Response:" "5"
messages  {"messages": [{"role": "user", …}, …]}         the turns up to the last answer       its words

With a chat template, plain and alpaca rows become one turn of the user's and one of the assistant's.
"""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from lora_ns.config import CHAT_FORMATS, FORMAT_COLUMNS, DatasetConfig, nearest, template_columns
from lora_ns.config.dataset import ROLES
from lora_ns.errors import DataError

Row = Mapping[str, Any]
Message = dict[str, str]
Prompt = str | list[Message]
"""Text to continue, or a conversation that the assistant answers next."""

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
"""The prompts of Stanford Alpaca (Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca)."""


_TURNS_OF = {"sharegpt": ("conversations", "from", "value"), "messages": ("messages", "role", "content")}
"""Format -> (column with the turns, key of the role, key of the content)."""


class NoConversation(ValueError):
    """The row holds no usable conversation.  The message is the reason."""


def check_columns(dataset: DatasetConfig, task_type: str, columns: Sequence[str], where: str) -> None:
    """Raises DataError if the data lacks a column that the config names or the format needs."""
    for name, key in _wanted_columns(dataset, task_type).items():
        if name not in columns:
            raise DataError(
                f"{key} names the column {name!r}, which {where} lacks.{nearest(name, columns)} It has: "
                f"{', '.join(columns)}.{_format_hint(dataset, columns)}"
            )


def _wanted_columns(dataset: DatasetConfig, task_type: str) -> dict[str, str]:
    """Return column -> the setting that needs it."""
    if task_type != "causal_lm":
        wanted = dict.fromkeys(dataset.text_columns or [], "dataset.text_columns")
        return wanted | {dataset.label_column: "dataset.label_column"}
    if dataset.format == "text":
        return dict.fromkeys(dataset.text_columns or ["text"], "dataset.text_columns")
    if dataset.format != "plain":
        return dict.fromkeys(FORMAT_COLUMNS[dataset.format], f"dataset.format {dataset.format}")
    return {
        name: f"dataset.{key}"
        for key in ("prompt_template", "response_template")
        for name in template_columns(getattr(dataset, key) or "")
    }


def _format_hint(dataset: DatasetConfig, columns: Sequence[str]) -> str:
    fitting = [name for name, needs in FORMAT_COLUMNS.items() if set(needs) <= set(columns) and name != dataset.format]
    return f" Its rows look like dataset.format: {fitting[0]}." if fitting else ""


def prompt_of(row: Row, dataset: DatasetConfig) -> Prompt:
    """The prompt of a row.  Raises NoConversation for a chat row without an answer."""
    if dataset.format in CHAT_FORMATS:
        return conversation_of(row, dataset)[:-1]
    if dataset.format == "text":
        return text_of(row, dataset)
    if dataset.format == "plain":
        text = render(dataset.prompt_template or "", row)
        return _one_turn(text) if dataset.is_chat else text
    return instructed(str(row["instruction"]), dataset, str(row.get("input") or ""))


def instructed(instruction: str, dataset: DatasetConfig, context: str = "") -> Prompt:
    """Return an instruction in the training format: a user turn, the Alpaca prompt, or the plain text."""
    if dataset.is_chat:
        return _one_turn(f"{instruction}\n\n{context}" if context.strip() else instruction)
    if dataset.format == "alpaca":
        frame = ALPACA_WITH_INPUT if context.strip() else ALPACA
        return frame.format(instruction=instruction, input=context)
    return instruction


def response_of(row: Row, dataset: DatasetConfig) -> str | None:
    """The completion of a row.  None if a column that it needs is empty."""
    if dataset.format in CHAT_FORMATS:
        return conversation_of(row, dataset)[-1]["content"]
    if dataset.format == "alpaca":
        return str(row["output"]) if row.get("output") not in (None, "") else None
    template = dataset.response_template or ""
    if any(is_missing(row.get(name)) or row[name] == "" for name in template_columns(template)):
        return None
    text = render(template, row)
    return text.strip() if dataset.is_chat else text


def with_examples(prompt: Prompt, examples: Sequence[tuple[Prompt, str]]) -> Prompt:
    """Return the prompt after few-shot examples: as earlier turns, or as text separated by blank lines."""
    if isinstance(prompt, str):
        return "".join(f"{asked}{answer}\n\n" for asked, answer in examples) + prompt
    turns: list[Message] = []
    for asked, answer in examples:
        assert not isinstance(asked, str)
        turns += [*asked, {"role": "assistant", "content": answer}]
    return [*turns, *prompt]


def _one_turn(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def is_missing(value: Any) -> bool:
    """Whether a value is missing: null, or NaN in a column of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def render(template: str, row: Row) -> str:
    """Return the template filled with the row's values.  A missing value becomes empty text.

    One trailing line end is dropped: YAML's block style (`|`) adds it.  Tokenizers that join a line end and the next word
    would make one token of it and the start of the completion.
    Raises DataError if a value does not fit the template's format.
    """
    text = template[:-1] if template.endswith("\n") and not template.endswith("\n\n") else template
    values = {name: "" if is_missing(row.get(name)) else row[name] for name in template_columns(template)}
    try:
        return text.format(**values)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the template {template!r} cannot be filled in with {', '.join(f'{k}: {v!r}' for k, v in values.items())}: {error}."
        ) from None


def text_of(row: Row, dataset: DatasetConfig) -> str:
    """The text of a row in the format `text`."""
    value = row[(dataset.text_columns or ["text"])[0]]
    return "" if value is None else str(value)


def conversation_of(row: Row, dataset: DatasetConfig) -> list[Message]:
    """The turns of a row up to the last assistant turn.  Raises NoConversation with the reason."""
    if dataset.format not in CHAT_FORMATS:
        asked, answer = prompt_of(row, dataset), response_of(row, dataset)
        if answer is None or not answer.strip():
            raise NoConversation("empty response")
        assert not isinstance(asked, str)
        return [*asked, {"role": "assistant", "content": answer}]
    column, role, content = _TURNS_OF[dataset.format]
    given = row[column]
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(m, Mapping) for m in given):
        raise NoConversation(f"{column} holds no list of turns")
    turns = [_message(turn, role, content) for turn in given]
    system = row.get("system") if dataset.format == "sharegpt" else None
    if isinstance(system, str) and system.strip() and turns and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    spoken = [turn for turn in turns if turn["role"] != "system"]
    if not turns:
        raise NoConversation("no turn of the assistant's")
    if spoken[0]["role"] == "assistant":
        raise NoConversation("the assistant speaks first")
    if not all(turn["content"].strip() for turn in turns if turn["role"] == "assistant"):
        raise NoConversation("an empty turn of the assistant's")
    return turns


def learnt_turns(row: Row, dataset: DatasetConfig) -> list[bool]:
    """Return for each assistant turn of `conversation_of` whether it carries loss.  OpenAI's `weight: 0` excludes a turn.

    Raises NoConversation for a weight other than 0 and 1, and if no turn carries loss.
    """
    if dataset.format not in CHAT_FORMATS:
        return [True]
    column, role, _ = _TURNS_OF[dataset.format]
    weights = [turn.get("weight") for turn in row[column] if ROLES.get(str(turn.get(role))) == "assistant"]
    strange = [weight for weight in weights if weight not in (None, 0, 1)]
    if strange:
        raise NoConversation(f"a turn of weight {strange[0]!r}, which is neither 0 nor 1")
    learnt = [weight != 0 for weight in weights]
    if not any(learnt):
        raise NoConversation("no turn of the assistant's has weight 1")
    return learnt


def _message(turn: Mapping[str, Any], role: str, content: str) -> Message:
    name = str(turn.get(role))
    if name not in ROLES:
        raise NoConversation(f"a turn by {name!r}, which is none of {', '.join(ROLES)}")
    value = turn.get(content)
    if isinstance(value, Sequence) and not isinstance(value, str):  # OpenAI's parts of a message
        value = "".join(map(_text_of_part, value))
    return {"role": ROLES[name], "content": "" if value is None else str(value)}


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") or "text" if isinstance(part, Mapping) else type(part).__name__
    if kind != "text":
        raise NoConversation(f"a part of the kind {kind!r}, which is no text")
    return str(part.get("text") or "")


def texts_of(row: Row, dataset: DatasetConfig) -> list[str]:
    """The input texts of a classification or regression row: one or two."""
    return ["" if is_missing(row[name]) else str(row[name]) for name in dataset.text_columns or []]


_PUNCTUATION = re.compile(r"""[;!?"'`´“”‘’…]|[.,:](?!\d)|[,:](?<!\d[,:])""")


def normalised(text: str) -> str:
    """Return the text for comparison: NFKC, lower case, no punctuation, single spaces.  Any script.

    Separators inside a number stay, so that 1.5 + 2 differs from 15 + 2.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_PUNCTUATION.sub("", text).split())


def question_of(row: Row, dataset: DatasetConfig, task_type: str) -> str:
    """The question of a row without template text, so that rows of different data sets can be compared."""
    if task_type != "causal_lm":
        return "\n".join(texts_of(row, dataset))
    if dataset.format == "text":
        return text_of(row, dataset)
    if dataset.format in CHAT_FORMATS:
        try:
            turns = conversation_of(row, dataset)
        except NoConversation:
            return ""
        return "\n".join(turn["content"] for turn in turns if turn["role"] == "user")
    if dataset.format == "alpaca":
        return f"{row['instruction']}\n{row.get('input') or ''}"
    columns = template_columns(dataset.prompt_template or dataset.response_template or "")
    return "\n".join(str(row[name]) for name in columns if row.get(name) is not None)
