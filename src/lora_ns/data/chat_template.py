"""Conversations as text, by a chat template, and which part of that text is the assistant's.

messages   user: "2+3?"   assistant: "5"   user: "And 4?"   assistant: "9"
text       <|im_start|>user\\n2+3?<|im_end|>\\n<|im_start|>assistant\\n5<|im_end|>\\n<|im_start|>user …
answers                                                           ^^^^^^^^^^^ the words and their end mark

What an answer is follows from what generation will see: it starts where the template's generation prompt ends, and ends
with the mark that ends a turn.  A template's own `{% generation %}` marks are kept to where it has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from itertools import compress, pairwise
from typing import Any

from lora_ns.config import DatasetConfig
from lora_ns.data.prompts import Message, NoConversation
from lora_ns.errors import ConfigError

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
"""For tokenizers without a template: roles in plain text, an answer ends in the tokenizer's own end of sequence
(the form of Wang et al. 2023, arXiv 2306.04751)."""

Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
"""How transformers' templates write today's date, in a form that they name."""
_PROBE = "The answer between two marks."


class Chat:
    """A tokenizer's way to write conversations down."""

    def __init__(self, tokenizer: Any, chat_template: str, options: Mapping[str, Any] | None = None):
        """chat_template: `tokenizer`, `tulu` or a template.  options: `dataset.chat_template_options`.

        Raises ConfigError where the tokenizer has no template, or it writes the date and is told none.
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
            # as text, for transformers hands no function on to a template
            self.template = _TODAY.sub(lambda found: repr(day.strftime(found[2])), self.template)
        if _TODAY.search(self.template):
            raise ConfigError(
                "dataset.chat_template: the template writes today's date (strftime_now), so the same config would give other "
                "tokens tomorrow. Say which day it is to write: dataset.chat_template_options: {date: 2026-01-31}."
            )

    def text(self, messages: list[Message], *, ask: bool = False) -> str:
        """The conversation as text.  ask: with the opening of an answer after it, where generation starts.

        Raises NoConversation where the template refuses it.
        """
        import jinja2

        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=ask, **self._told
            )
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"dataset.chat_template: line {error.lineno}: {error.message}.") from None
        except jinja2.TemplateError as error:
            raise NoConversation(f"the chat template refuses it: {str(error).splitlines()[0]}") from None

    @cached_property
    def end_mark(self) -> str:
        """What ends an answer: a token such as `<|im_end|>`, else whatever text the template puts there; may be empty."""
        text = self.text([{"role": "user", "content": "A"}, {"role": "assistant", "content": _PROBE}])
        tail = text.rpartition(_PROBE)[2].strip()
        known = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        known |= set(self.tokenizer.all_special_tokens)
        opening = [token for token in known if token.strip() and tail.startswith(token)]
        return max(opening, key=len, default=tail)

    def stops(self) -> tuple[list[int], list[str]]:
        """(token ids, texts) that end an answer, beside the end of sequence."""
        if not self.end_mark:
            return [], []
        ids = self.tokenizer(self.end_mark, add_special_tokens=False)["input_ids"]
        return (ids, []) if len(ids) == 1 else ([], [self.end_mark])

    def answers(self, messages: list[Message], learnt: Sequence[bool] | None = None) -> list[tuple[str, list[Span]]]:
        """Texts to train on, each with the places of its answers; the last answer ends the text.

        learnt: whether each turn of the assistant's is to be learnt (None: all); one that is not is part of the prompt.
        One text, unless the template writes earlier turns differently once a conversation goes on (Qwen 3 leaves out
        earlier thoughts): then one text an answer, each as generation will see it.
        Raises NoConversation where the template does not let an answer be told from its prompt.
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
        """A conversation that ends in an answer, cut behind the mark that ends it, and the answer's place."""
        end = text.rfind(self.end_mark) + len(self.end_mark) if self.end_mark else len(text.rstrip())
        if not text.startswith(prompt) or end <= len(prompt):
            raise NoConversation("the chat template opens an answer differently for generation than in a conversation")
        return text[:end], (len(prompt), end)

    def _marked(self, messages: list[Message], text: str, prompts: list[str]) -> list[Span]:
        """The template's own marks, without what the generation prompt says already, with the mark that ends a turn."""
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered: Any = render_jinja_template(
            conversations=[messages],
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
            **self._told,
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


def chat_of(dataset: DatasetConfig, tokenizer: Any) -> Chat | None:
    """How a data set's conversations are written down; None where the model is not spoken to in turns."""
    if dataset.chat_template is None:
        return None
    return Chat(tokenizer, dataset.chat_template, dataset.chat_template_options)
