"""A base model that several runs share is loaded once.  Each run's adapter is loaded and unloaded.

A base that is not what it was once an adapter is off is loaded anew: a run's scores never hang on who was there before.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lora_ns.config import RunConfig
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.models.adapter import load_adapter, load_trained, unload_adapter
from lora_ns.models.base_model import load_base, make_deterministic
from lora_ns.store.paths import Store
from lora_ns.store.run import Run


class BaseModelPool:
    """Holds one base model and one tokenizer at a time."""

    def __init__(self, store: Store):
        self._store = store
        self._key: Any = None
        self._base: Any = None
        self._fingerprint: Any = None
        self._tokenizer: tuple[Any, Any] = (None, None)
        self.loads = 0
        """Number of times a base model was read from disk."""

    def tokenizer(self, config: RunConfig) -> Any:
        """The tokenizer of a run's base model."""
        if self._tokenizer[0] != config.model:
            self._tokenizer = (config.model, load_tokenizer(config.model, self._store))
        return self._tokenizer[1]

    @contextmanager
    def trained(self, run: Run, device: str) -> Iterator[Any]:
        """Context with the trained model of a run."""
        config = run.config
        if config.peft.method == "full":
            self._forget()
            make_deterministic(config.seed)
            self.loads += 1
            yield load_trained(run, run.adapter).to(device).eval()
            return
        base = self._loaded(run, device)
        try:
            if config.peft.method == "none":
                yield base.eval()
            else:
                make_deterministic(config.seed)
                model = load_adapter(base, run.adapter, config.model.name_or_path).to(device).eval()
                yield model
                unload_adapter(model)
        except BaseException:
            self._forget()  # the adapter may be loaded in part
            raise
        if fingerprint(base) != self._fingerprint:
            self._forget()

    def _loaded(self, run: Run, device: str) -> Any:
        config = run.config
        # the seed initialises a new classifier head
        seed = config.seed if config.task_type != "causal_lm" else None
        key = (config.model, config.task_type, config.dataset.labels, seed, device)
        if self._base is None or self._key != key:
            self._forget()
            make_deterministic(config.seed)
            self.loads += 1
            loaded: Any = load_base(run)
            self._base, self._key = loaded.to(device).eval(), key
            self._fingerprint = fingerprint(self._base)
        return self._base

    def _forget(self) -> None:
        self._base = self._key = self._fingerprint = None


def fingerprint(model: Any) -> Any:
    """Everything that determines a model's outputs: modules, their attributes and hooks, every weight, the config."""
    modules = [(name, type(module), sorted(_own(module))) for name, module in model.named_modules()]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {name: (tensor.dtype, tuple(tensor.shape), _checksum(tensor)) for name, tensor in tensors.items()}
    return modules, weights, model.config.to_dict()


def _own(module: Any) -> set[str]:
    """Attributes set on the module instance, and its hooks."""
    hooks = {name for name in ("_forward_hooks", "_forward_pre_hooks") if vars(module)[name]}
    return {name for name in vars(module) if not name.startswith("_")} - {"training"} | hooks


def _checksum(tensor: Any) -> int:
    """Checksum of a tensor's bits in order."""
    import torch

    return zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
