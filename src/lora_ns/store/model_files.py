"""Where a base model's files lie on this machine."""

from pathlib import Path

from lora_ns.config import ModelConfig
from lora_ns.errors import ConfigError, DataError
from lora_ns.store.artifact import is_finished
from lora_ns.store.integrity import load_verified
from lora_ns.store.paths import Store


def location(model: ModelConfig, store: Store) -> str:
    """The path or hub name for `from_pretrained`.  Raises DataError if a builtin model has not been made yet."""
    name = model.name_or_path
    if not name.startswith("builtin:"):
        return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    folder = store.base_model(name)
    if not is_finished(folder):
        raise DataError(f"the base model {name} has not been made yet; run `lora-ns pretrain {name}`.")
    load_verified(folder)
    return str(folder)


def folder_here(model: ModelConfig, store: Store) -> Path | None:
    """The folder of a base model on this disk.  None if it must be made or downloaded first."""
    name = model.name_or_path
    if name.startswith("builtin:"):
        folder = store.base_model(name)
        return folder if is_finished(folder) else None
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
    """The size of a base model's weights (safetensors or .bin files) in bytes."""
    return sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in folder.glob(kind))


def download(model: ModelConfig) -> Path:
    """Download a hub model's files.  Returns their folder.  Raises ConfigError."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.name_or_path, revision=model.revision, allow_patterns=hub_files(model)))
    except (OSError, ValueError) as error:
        raise not_loaded("model", model, error) from error


def hub_files(model: ModelConfig) -> list[str]:
    """What is read of a model on the hub: never weights in a form that could run code."""
    files = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt"]
    return [*files, "*.py"] if model.trust_remote_code else files


def not_loaded(what: str, model: ModelConfig, error: Exception) -> ConfigError:
    """Return the ConfigError for a model or tokenizer that transformers failed to load, with the reason."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    revision = f" at revision {model.revision}" if model.revision else ""
    gated = any(word in str(error).lower() for word in ("gated repo", "401 client error", "restricted"))
    hint = " Ask for access on its page, then log in with `hf auth login` or set HF_TOKEN." if gated else ""
    return ConfigError(f"model.name_or_path: the {what} {model.name_or_path!r}{revision} cannot be loaded: {reason}{hint}")
