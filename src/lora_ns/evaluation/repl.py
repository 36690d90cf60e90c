"""Interactive use at the terminal: one prompt with streamed output, or a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.config import GenerationConfig
from lora_ns.data.chat_template import Chat
from lora_ns.data.encoding import encode_prompts
from lora_ns.data.prompts import Message, Prompt
from lora_ns.data.tokenizer import decode
from lora_ns.evaluation.engines.decoding import cut_at, with_stops
from lora_ns.evaluation.generation import Generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Write = Callable[[str], Any]


class Printer:
    """Streams a completion: complete characters only, without stop texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], write: Write):
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._write = write
        self._ids: list[int] = []
        self._seen_prompt = False
        self._written = 0

    def put(self, value: Any) -> None:
        """Called with the prompt first, then with each new token."""
        if not self._seen_prompt:
            self._seen_prompt = True
            return
        self._ids += value.reshape(-1).tolist()
        text = self._text()
        # held back: a possible stop text, or an incomplete character
        held = max((n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        if not text.endswith("\ufffd"):
            self._advance(text[: len(text) - held])

    def end(self) -> None:
        """Write what was held back."""
        self._advance(self._text())

    def _text(self) -> str:
        text = decode(self._tokenizer, self._ids)
        return cut_at(text, self._stop)

    def _advance(self, text: str) -> None:
        self._write(text[self._written :])
        self._written = max(self._written, len(text))


def answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    config: GenerationConfig,
    chat: Chat | None,
    write: Write | None = None,
) -> list[str]:
    """Return the completions of one prompt.  write: receives the text; streamed for one sample without beam search."""
    config, stop_ids = with_stops(config, chat)
    ids = encode_prompts([prompt], tokenizer, chat)
    streams = write is not None and config.num_beams == 1 and config.num_samples == 1
    printer = Printer(tokenizer, config.stop, write) if streams and write is not None else None
    generator = Generator(model, tokenizer, config, stop_ids=stop_ids, streamer=printer)
    found = generator.texts(ids, ["0"])[0]
    if write is not None and printer is None:
        write("\n".join(found))
    return found


def converse(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    lines: Iterable[str],
    config: GenerationConfig,
    chat: Chat,
    write: Write,
    system: str | None = None,
) -> list[Message]:
    """Answer each line with the conversation so far as context; returns the conversation.

    `/reset` clears it. `/exit` or the end of the lines ends it.
    """
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    turns = list(opening)
    for line in lines:
        text = line.strip()
        if text == "/exit":
            break
        if text == "/reset":
            turns = list(opening)
            continue
        if not text:
            continue
        turns.append({"role": "user", "content": text})
        said = answer(model, tokenizer, turns, config, chat, write)[0]
        write("\n")
        turns.append({"role": "assistant", "content": said.strip()})
    return turns
