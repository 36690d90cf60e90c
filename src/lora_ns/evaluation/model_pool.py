"""Load each base model once for all its runs, and load and unload the runs' adapters in turn.

The base model is reloaded if unloading an adapter changed it, so a run's scores never depend on earlier runs.
"""

from __future__ import annotations

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
    """Holds one base model and one tokenizer for the runs that share them."""

    def __init__(self, store: Store):
        self._store = store
        self._key: Any = None
        self._base: Any = None
        self._fingerprint: Any = None
        self._tokenizer: tuple[Any, Any] = (None, None)
        self.loads = 0
        """Number of times a base model was read from disk."""

    def tokenizer(self, config: RunConfig) -> Any:
        """Return the tokenizer of a run's base model."""
        if self._tokenizer[0] != config.model:
            self._tokenizer = (config.model, load_tokenizer(config.model, self._store))
        return self._tokenizer[1]

    @contextmanager
    def trained(self, run: Run, device: str) -> Iterator[Any]:
        """Yield the trained model of a run; it is valid inside the block."""
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
            self._forget()  # an adapter may be partly loaded
            raise
        if fingerprint(base) != self._fingerprint:
            self._forget()

    def _loaded(self, run: Run, device: str) -> Any:
        config = run.config
        # the weights of a new classification head depend on the seed
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
    """Return all that a model's output depends on: modules, their attributes and hooks, weight checksums, config."""
    modules = [(name, type(module), sorted(_own(module))) for name, module in model.named_modules()]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {name: (tensor.dtype, tuple(tensor.shape), _checksum(tensor)) for name, tensor in tensors.items()}
    return modules, weights, model.config.to_dict()


def _own(module: Any) -> set[str]:
    """Public attributes set on the module itself, and its hooks."""
    hooks = {name for name in ("_forward_hooks", "_forward_pre_hooks") if vars(module)[name]}
    return {name for name in vars(module) if not name.startswith("_")} - {"training"} | hooks


def _checksum(tensor: Any) -> int:
    """CRC-32 of a tensor's bytes."""
    import torch

    return zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
