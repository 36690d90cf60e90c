"""Build a base model without weights, on the meta device, from its config file."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, LlamaConfig

from lora_ns.config.builtin import base_model_spec
from lora_ns.errors import ConfigError
from lora_ns.models.base_model import head_of
from lora_ns.models.peft_config import reason_of
from lora_ns.store.artifact import is_finished
from lora_ns.store.model_files import location
from lora_ns.store.run import Run


def model_without_weights(run: Run) -> Any:
    """Return the base model with the task's head on the meta device.  Raises ConfigError if its config cannot be read."""
    config, model = run.config, run.config.model
    loader: Any = AutoModelForCausalLM if config.task_type == "causal_lm" else AutoModelForSequenceClassification
    arguments: dict[str, Any] = {"trust_remote_code": model.trust_remote_code}
    try:
        described = _described(run)
        if model.attn_implementation is not None and not model.attn_implementation.startswith("flash"):
            arguments["attn_implementation"] = model.attn_implementation
        with torch.device("meta"):
            return loader.from_config(described, dtype=getattr(torch, model.dtype), **arguments)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"model.name_or_path: the config of {model.name_or_path} is not to be had, or cannot be read: {reason_of(error)}"
        ) from error


def _described(run: Run) -> Any:
    """Return the transformers config; for a builtin model that is not made yet, from its specification."""
    config, store, model = run.config, run.store, run.config.model
    head = head_of(config) if config.task_type != "causal_lm" else {}
    name = model.name_or_path
    if name.startswith("builtin:") and not is_finished(store.base_model(name)):
        spec = base_model_spec(name)
        kinds: dict[str, Any] = {"causal_lm": LlamaConfig, "encoder": BertConfig}
        tied = {"tie_word_embeddings": True}
        return kinds[spec["kind"]](vocab_size=spec["vocab_size"], pad_token_id=0, **tied, **spec["architecture"], **head)
    return AutoConfig.from_pretrained(
        location(model, store), revision=model.revision, trust_remote_code=model.trust_remote_code, **head
    )
