"""Base models and their tokenizers, from the hub, a local folder, or the project's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config import ModelConfig, RunConfig
from lora_ns.models.imports import keep_imports
from lora_ns.errors import ConfigError, DataError
from lora_ns.store.integrity import intact
from lora_ns.store.run import Run
from lora_ns.store.paths import Store, exists

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def location(model: ModelConfig, store: Store) -> str:
    """What `from_pretrained` is given.  Raises DataError where a builtin model has not been made yet."""
    name = model.name_or_path
    if not name.startswith("builtin:"):
        return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    folder = store.base_model(name)
    if not exists(folder):
        raise DataError(f"the base model {name} has not been made yet; run `lora-ns pretrain {name}`.")
    intact(folder)
    return str(folder)


def folder_here(model: ModelConfig, store: Store) -> Path | None:
    """The folder of a base model that is on this disk already; None where it would have to be made or downloaded."""
    name = model.name_or_path
    if name.startswith("builtin:"):
        folder = store.base_model(name)
        return folder if exists(folder) else None
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=model.revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def weight_bytes(folder: Path) -> int:
    """Of a base model's weights, as safetensors or as torch has them."""
    return sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind))


def load_tokenizer(model: ModelConfig, store: Store, *, place: Path | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token.  Raises ConfigError with the loader's reason.

    place: the folder that it is loaded from, where that is known.
    """
    from transformers import AutoTokenizer

    revision = model.revision if place is None else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place or location(model, store), revision=revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer", model, error) from error
    if tokenizer.pad_token_id is None:
        # labels are masked by position, never by token, so a shared id does no harm
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f"model.name_or_path: the tokenizer of {model.name_or_path!r} has no token to pad with: none for padding, for "
            "the unknown or for the end of a sequence. Name one in its tokenizer_config.json, as pad_token."
        )
    return tokenizer


def check_end(tokenizer: PreTrainedTokenizerBase, model: ModelConfig) -> None:
    """Raises ConfigError where the model could not learn when to stop, as its tokenizer has no end of a sequence."""
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.name_or_path: the tokenizer of {model.name_or_path!r} has no end of a sequence, so an answer would never "
            "end. Name one in its tokenizer_config.json, as eos_token."
        )


def load_base(run: Run, *, place: str | None = None) -> PreTrainedModel:
    """The base model with the head of the task, in the configured precision.

    place: another folder to load from, for weights that were all trained, as they are there (never quantised).  A new
    classification head is drawn from torch's current random state: seed before.  Raises ConfigError with the loader's
    reason.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    keep_imports()
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
        raise _not_loaded("model", model, error) from error
    if config.task_type == "causal_lm":
        refuse_encoder(loaded.config, model)
    if quantized:
        _keep_readable(loaded)
    _set_padding(loaded, run)
    return loaded


def head_of(config: RunConfig) -> dict[str, Any]:
    """What the head predicts: one number, or one of the classes."""
    if config.task_type == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    labels = config.dataset.labels or []
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def refuse_encoder(loaded: Any, model: ModelConfig) -> None:
    """Raises ConfigError for a model that reads the whole text at once: trained to go on, it would only copy what it sees.

    loaded: the model's own config, as its class for causal language modelling has it.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if type(loaded) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(loaded, "is_decoder", False):
        raise ConfigError(
            f"task_type causal_lm: {model.name_or_path} ({loaded.model_type}) is an encoder, which reads a text from both "
            "sides and writes none; it fits task_type classification or regression."
        )


def positions_of(model: Any) -> int | None:
    """The most tokens that a model takes as it learned a vector for each place; None where its positions go on."""
    import torch

    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and ("position" in last or last == "wpe"):
            reserved = getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
            return module.num_embeddings - reserved
    return None


def check_positions(model: Any, longest: int, config: RunConfig) -> None:
    """Raises ConfigError where texts are longer than the model has places for.  longest: tokens of the longest text."""
    room = positions_of(model)
    learned = int(config.peft.fields.get("num_virtual_tokens") or 0)
    if room is not None and longest + learned > room:
        beside = f" and the method's {learned} virtual tokens" if learned else ""
        raise ConfigError(
            f"dataset.max_length: texts of up to {longest} tokens{beside} do not fit {config.model.name_or_path}, which has "
            f"{room} positions; set dataset.max_length to {room - learned} or less."
        )


def _keep_readable(loaded: Any) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights for this processor at the first forward pass.

    On processors with AVX512-BF16 it does, and whatever reads the weights afterwards (DoRA at every step, a merge) gets
    them in the wrong order, without an error.
    """
    for module in loaded.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def download(model: ModelConfig) -> Path:
    """The files of a model on the hub, brought to this machine; returns their folder.  Raises ConfigError."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.name_or_path, revision=model.revision, allow_patterns=_hub_files(model)))
    except (OSError, ValueError) as error:
        raise _not_loaded("model", model, error) from error


def _hub_files(model: ModelConfig) -> list[str]:
    """What is read of a model on the hub: never weights in a form that could run code."""
    files = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt"]
    return [*files, "*.py"] if model.trust_remote_code else files


def weights_folder(model: ModelConfig, store: Store) -> Path:
    """The folder of the base's own weights, already loaded once.  Raises DataError where they are not on this disk."""
    place = location(model, store)
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(place, revision=model.revision, allow_patterns=_hub_files(model), local_files_only=True)
        return Path(found)
    except LocalEntryNotFoundError as error:
        raise DataError(f"the weights of {place} are not on this disk: {error}") from error


def _set_padding(loaded: PreTrainedModel, run: Run) -> None:
    """Sequence classification finds the last real token by the padding id."""
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = load_tokenizer(run.config.model, run.store).pad_token_id


def _quantization(model: ModelConfig) -> Any:
    """nf4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), or LLM.int8 (2022, arXiv 2208.07339)."""
    import logging

    import torch
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at every layer and step which type it casts to

    if model.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, model.dtype),
    )


def _not_loaded(what: str, model: ModelConfig, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    revision = f" at revision {model.revision}" if model.revision else ""
    gated = any(word in str(error).lower() for word in ("gated repo", "401 client error", "restricted"))
    hint = " Ask for access on its page, then log in with `hf auth login` or set HF_TOKEN." if gated else ""
    return ConfigError(f"model.name_or_path: the {what} {model.name_or_path!r}{revision} cannot be loaded: {reason}{hint}")


def best_device() -> str:
    """The device that this process computes on."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def make_deterministic(seed: int) -> None:
    """Seeds every random state and settles how this process computes, so that it gives the same bits each time."""
    import os

    import torch
    from transformers import set_seed

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # costs a third of a small step, and guards only against reading memory that nothing wrote
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    set_seed(seed)
