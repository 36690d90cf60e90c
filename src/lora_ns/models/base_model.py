"""Load base models: from the hub, from a local folder, or builtin ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config import ModelConfig, RunConfig
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.errors import ConfigError, DataError
from lora_ns.models.imports import freeze_imports
from lora_ns.store.model_files import hub_files, location, not_loaded
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def without_peft(model: Any) -> Any:
    """Return the transformers model inside a PEFT model, with the adapter's layers.  Any other model is returned as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_base(run: Run, *, place: str | None = None) -> PreTrainedModel:
    """Return the base model with the task's head, in the configured precision.

    place: another folder to load from, for fully fine-tuned weights, which are loaded unquantised.
    A new classification head is drawn from torch's current random state, so set the seed first.
    Raises ConfigError with the loader's reason.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    freeze_imports()
    config, model = run.config, run.config.model
    arguments: dict[str, Any] = {
        "revision": model.revision if place is None else None,
        "dtype": getattr(torch, model.dtype),
        "trust_remote_code": model.trust_remote_code,
        "use_safetensors": True,
    }
    if model.attn_implementation is not None:
        arguments["attn_implementation"] = model.attn_implementation
    quantized = model.quantization != "none" and place is None
    if quantized:
        arguments["quantization_config"] = _quantization(model)
    loader: Any = AutoModelForCausalLM
    if config.task_type != "causal_lm":
        loader = AutoModelForSequenceClassification
        arguments |= head_of(config)
    try:
        loaded = loader.from_pretrained(place or location(model, run.store), **arguments)
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        raise not_loaded("model", model, error) from error
    if config.task_type == "causal_lm":
        refuse_encoder(loaded.config, model)
    if quantized:
        _keep_readable(loaded)
    _set_padding(loaded, run)
    return loaded


def head_of(config: RunConfig) -> dict[str, Any]:
    """Return the model arguments for the task's head: regression or classification."""
    if config.task_type == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    labels = config.dataset.labels or []
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def refuse_encoder(loaded: Any, model: ModelConfig) -> None:
    """Raises ConfigError for a bidirectional encoder.  It sees the next token, so causal training would only copy.

    loaded: the config of the model as loaded for causal language modelling.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if type(loaded) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(loaded, "is_decoder", False):
        raise ConfigError(
            f"task_type causal_lm: {model.name_or_path} ({loaded.model_type}) is an encoder, which reads a text from both "
            "sides and writes none; it fits task_type classification or regression."
        )


def positions_of(model: Any) -> int | None:
    """The maximum tokens of a model with learned position embeddings.  None for a model without them."""
    import torch

    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and ("position" in last or last == "wpe"):
            reserved = getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
            return module.num_embeddings - reserved
    return None


def check_positions(model: Any, longest: int, config: RunConfig) -> None:
    """Raises ConfigError if texts exceed the model's position embeddings.  longest: tokens of the longest text."""
    room = positions_of(model)
    learned = int(config.peft.fields.get("num_virtual_tokens") or 0)
    if room is not None and longest + learned > room:
        beside = f" and the method's {learned} virtual tokens" if learned else ""
        raise ConfigError(
            f"dataset.max_length: texts of up to {longest} tokens{beside} do not fit {config.model.name_or_path}, which has "
            f"{room} positions; set dataset.max_length to {room - learned} or less."
        )


def _keep_readable(loaded: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first forward pass on CPUs with AVX512-BF16.

    Later reads of repacked weights (DoRA at every step, a merge) would get them in the wrong order, without an error.
    """
    for module in loaded.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def weights_folder(model: ModelConfig, store: Store) -> Path:
    """The folder of the base model's weights.  Raises DataError if they are not on this disk."""
    place = location(model, store)
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(place, revision=model.revision, allow_patterns=hub_files(model), local_files_only=True)
        return Path(found)
    except LocalEntryNotFoundError as error:
        raise DataError(f"the weights of {place} are not on this disk: {error}") from error


def _set_padding(loaded: PreTrainedModel, run: Run) -> None:
    """Set a missing padding id.  Sequence classification needs it to find the last real token."""
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = load_tokenizer(run.config.model, run.store).pad_token_id


def _quantization(model: ModelConfig) -> Any:
    """The quantisation config: NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), or LLM.int8 (2022,
    arXiv 2208.07339)."""
    import logging

    import torch
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs every cast, at each layer and step

    if model.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, model.dtype),
    )


def best_device() -> str:
    """The torch device of this process: cuda if available, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def make_deterministic(seed: int) -> None:
    """Set all random seeds and torch's deterministic mode, so that results repeat bit for bit."""
    import os

    import torch
    from transformers import set_seed

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling costs a third of a small step's time and only guards against reading uninitialised memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    set_seed(seed)
