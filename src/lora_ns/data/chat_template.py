"""Render conversations with a chat template, and find the assistant's parts of the text.

messages   user: "2+3?"   assistant: "5"   user: "And 4?"   assistant: "9"
text       <|im_start|>user\\n2+3?<|im_end|>\\n<|im_start|>assistant\\n5<|im_end|>\\n<|im_start|>user …
answers                                                           ^^^^^^^^^^^ the answer and its end mark

An answer starts where the template's generation prompt ends, as in generation.  It ends with the mark that ends a turn.
If a template has its own `{% generation %}` marks, these are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from itertools import compress, pairwise
from typing import TYPE_CHECKING, Any

from lora_ns.config import DatasetConfig
from lora_ns.data.prompts import Message, NoConversation
from lora_ns.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TULU = """\
{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}
{% for message in messages %}
{% if message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}
{%- else %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}
"""
"""A template for tokenizers without one: roles in plain text, an answer ends in the tokenizer's end-of-sequence token
(format of Wang et al. 2023, arXiv 2306.04751)."""

Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
"""Matches the call that writes today's date in transformers' chat templates, with its format."""
_PROBE = "The answer between two marks."


class Chat:
    """A tokenizer with its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str, options: Mapping[str, Any] | None = None):
        """chat_template: `tokenizer`, `tulu` or a template.  options: `dataset.chat_template_options`.

        Raises ConfigError if the tokenizer has no template, or if the template writes the date and the options set none.
        """
        self.tokenizer = tokenizer
        self.template = TULU if chat_template == "tulu" else chat_template
        if chat_template == "tokenizer":
            if not tokenizer.chat_template:
                raise ConfigError(
                    "dataset.chat_template: the model's tokenizer has no chat template of its own. Set "
                    "dataset.chat_template to tulu (a plain form that works with any tokenizer) or to a .jinja file."
                )
            self.template = tokenizer.get_chat_template()
        self._told: dict[str, Any] = {key: value for key, value in (options or {}).items() if key != "date"}
        if options and "date" in options:
            day = date.fromisoformat(options["date"])
            self._told["date_string"] = day.strftime("%d %b %Y")
            # replaced in the source, because transformers passes no functions to a template
            self.template = _TODAY.sub(lambda found: repr(day.strftime(found[2])), self.template)
        if _TODAY.search(self.template):
            raise ConfigError(
                "dataset.chat_template: the template writes today's date (strftime_now), so the same config would give other "
                "tokens tomorrow. Say which day it is to write: dataset.chat_template_options: {date: 2026-01-31}."
            )

    def text(self, messages: list[Message], *, ask: bool = False) -> str:
        """The conversation as text.  ask: add the generation prompt.

        Raises NoConversation if the template refuses the conversation, ConfigError for a syntax error in the template.
        """
        import jinja2

        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=ask, **self._told
            )
            return str(rendered)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"dataset.chat_template: line {error.lineno}: {error.message}.") from None
        except jinja2.TemplateError as error:
            raise NoConversation(f"the chat template refuses it: {str(error).splitlines()[0]}") from None

    @cached_property
    def end_mark(self) -> str:
        """The mark that ends an answer: a token such as `<|im_end|>`, else the template's text there.  May be empty."""
        text = self.text([{"role": "user", "content": "A"}, {"role": "assistant", "content": _PROBE}])
        tail = text.rpartition(_PROBE)[2].strip()
        known = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        known |= set(self.tokenizer.all_special_tokens)
        opening = [token for token in known if token.strip() and tail.startswith(token)]
        return max(opening, key=len, default=tail)

    def stops(self) -> tuple[list[int], list[str]]:
        """Return (token ids, texts) that end an answer, in addition to the end-of-sequence token."""
        if not self.end_mark:
            return [], []
        ids = self.tokenizer(self.end_mark, add_special_tokens=False)["input_ids"]
        return (ids, []) if len(ids) == 1 else ([], [self.end_mark])

    def answers(self, messages: list[Message], learnt: Sequence[bool] | None = None) -> list[tuple[str, list[Span]]]:
        """Return the training texts, each with the character spans of its answers.  A text ends with its last answer.

        learnt: whether each assistant turn carries loss (None: all).  A turn without loss is part of the prompt.
        There is one text, unless the template renders earlier turns differently later on (Qwen 3 drops earlier thoughts).
        Then there is one text per answer, each as in generation.
        Raises NoConversation if the answers cannot be separated from their prompts.
        """
        text = self.text(messages)
        places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = [self.text(messages[:i], ask=True) for i in places]
        chosen = [True] * len(places) if learnt is None else list(learnt)
        if _GENERATION.search(self.template):
            spans = self._marked(messages, text, prompts)
            if not all(chosen) and len(spans) != len(chosen):
                raise NoConversation("the chat template's marks do not tell turns of weight 0 from others")
            spans = spans if all(chosen) else list(compress(spans, chosen))
            return [(text[: spans[-1][1]], spans)]
        turns = [self._turn(self.text(messages[: i + 1]), prompt) for i, prompt in zip(places, prompts, strict=True)]
        if all(text.startswith(turn) for turn, _ in turns) and all(a[1] <= b[0] for (_, a), (_, b) in pairwise(turns)):
            last, _ = list(compress(turns, chosen))[-1]
            return [(last, [span for _, span in compress(turns, chosen)])]
        return [(turn, [span]) for turn, span in compress(turns, chosen)]

    def _turn(self, text: str, prompt: str) -> tuple[str, Span]:
        """Return the text cut after the last answer's end mark, and that answer's span.  prompt: the text before it."""
        end = text.rfind(self.end_mark) + len(self.end_mark) if self.end_mark else len(text.rstrip())
        if not text.startswith(prompt) or end <= len(prompt):
            raise NoConversation("the chat template opens an answer differently for generation than in a conversation")
        return text[:end], (len(prompt), end)

    def _marked(self, messages: list[Message], text: str, prompts: list[str]) -> list[Span]:
        """The answer spans by the template's `{% generation %}` marks, without generation prompt, with the end mark."""
        from transformers.utils.chat_template_utils import render_jinja_template

        options: dict[str, Any] = {**self.tokenizer.special_tokens_map, **self._told}
        rendered: Any = render_jinja_template(
            conversations=[messages], chat_template=self.template, return_assistant_tokens_mask=True, **options
        )
        marks = rendered[1]
        spans = [self._trimmed(text, start, end, prompts) for start, end in marks[0]]
        spans = [(start, end) for start, end in spans if end > start]
        if not spans:
            raise NoConversation("the chat template marks no answer")
        return spans

    def _trimmed(self, text: str, start: int, end: int, prompts: list[str]) -> Span:
        said = [len(prompt) for prompt in prompts if start < len(prompt) <= end and text.startswith(prompt)]
        start = said[0] if said else start
        inside = text.rfind(self.end_mark, start, end) if self.end_mark else -1
        if inside >= 0:
            return start, inside + len(self.end_mark)
        after = text[end:]
        if self.end_mark and after.lstrip().startswith(self.end_mark):
            return start, end + len(after) - len(after.lstrip()) + len(self.end_mark)
        return start, end


def chat_of(dataset: DatasetConfig, tokenizer: PreTrainedTokenizerBase | None) -> Chat | None:
    """The chat template of a data set.  None if it has none, and then no tokenizer is needed."""
    if dataset.chat_template is None:
        return None
    assert tokenizer is not None
    return Chat(tokenizer, dataset.chat_template, dataset.chat_template_options)
