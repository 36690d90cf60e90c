"""Load a base model's tokenizer, and check its padding and end-of-sequence tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.config import ModelConfig
from lora_ns.errors import ConfigError
from lora_ns.store.model_files import location, not_loaded
from lora_ns.store.paths import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(model: ModelConfig, store: Store, *, place: Path | None = None) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, with a padding token.  Raises ConfigError with the loader's reason.

    place: a folder to load it from instead of the base model's.
    """
    from transformers import AutoTokenizer

    revision = model.revision if place is None else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place or location(model, store), revision=revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise not_loaded("tokenizer", model, error) from error
    if tokenizer.pad_token_id is None:
        # a shared id is safe, because labels are masked by position, not by token
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f"model.name_or_path: the tokenizer of {model.name_or_path!r} has no token to pad with: none for padding, for "
            "the unknown or for the end of a sequence. Name one in its tokenizer_config.json, as pad_token."
        )
    return tokenizer


def check_end(tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> None:
    """Raises ConfigError for a tokenizer without an end-of-sequence token, as the model could not learn to stop."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.name_or_path: the tokenizer of {model.name_or_path!r} has no end of a sequence, so an answer would never "
            "end. Name one in its tokenizer_config.json, as eos_token."
        )


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of token ids, without special tokens and with every space as it was generated."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
