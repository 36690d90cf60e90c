"""Merge several adapters into one base model.

The full updates ΔW = s·B·A are combined, not the factors, because a sum of products is not the product of sums.  Adapters of
different ranks can therefore be combined.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lora_ns.config import MergeConfig
from lora_ns.errors import ConfigError
from lora_ns.models.adapter import add_adapter, load_adapter

DEFAULT_DENSITY = 0.5


def stack(base: Any, adapters: Sequence[Path], base_name: str) -> Any:
    """Return a PEFT model with all adapters, named by their index: "0", "1", ….

    Raises ConfigError if the adapters' updates cannot be added, DataError for an unreadable adapter.
    """
    from peft import PeftConfig

    configs = [_config_of(PeftConfig, folder) for folder in adapters]
    kinds = {str(config.peft_type.value) for config in configs}
    if len(kinds) > 1:
        raise ConfigError(f"merge.adapters: {' and '.join(sorted(kinds))} adapters cannot be merged with one another.")
    for folder, config in zip(adapters, configs, strict=True):
        _check_adds_up(folder, config)
    model = load_adapter(base, adapters[0], base_name, name="0")
    for number, folder in enumerate(adapters[1:], start=1):
        add_adapter(model, folder, base_name, name=str(number))
    return model


def _config_of(config_class: Any, folder: Path) -> Any:
    try:
        return config_class.from_pretrained(str(folder))
    except (ValueError, OSError, TypeError) as error:
        raise ConfigError(f"merge.adapters: {folder} holds no PEFT adapter: {str(error).splitlines()[0]}") from None


def _check_adds_up(folder: Path, config: Any) -> None:
    if getattr(config, "modules_to_save", None):
        saved = ", ".join(config.modules_to_save)
        raise ConfigError(
            f"merge.adapters: {folder} holds layers of its own ({saved}), each trained from another start; they do not add up."
        )
    more = [key for key in ("use_dora", "lora_bias", "trainable_token_indices") if getattr(config, key, None)]
    if getattr(config, "bias", "none") != "none":
        more.append("bias")
    if more:
        raise ConfigError(f"merge.adapters: {folder} does more than add to the weights ({', '.join(more)}); merge it alone.")


def weighted_sum(model: Any, weights: Sequence[float]) -> Any:
    """Return the stacked model with all adapters active and weighted, the reference for a linear merge.

    None if the method's layers cannot be weighted.
    """
    layers = list(_layers(model))
    if not all(hasattr(layer, "set_scale") for layer in layers):
        return None
    model.base_model.set_adapter([str(number) for number in range(len(weights))])
    for layer in layers:
        for name in layer._all_available_adapter_names():
            layer.set_scale(name, weights[int(name)])
    return model


def fold(model: Any, weights: Sequence[float], settings: MergeConfig, seed: int) -> Any:
    """Return the base model with the combined updates added to its weights.  seed: for DARE's random pruning."""
    import torch

    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in _layers(model):
            names = layer._all_available_adapter_names()
            updates = [_unscaled_delta(layer, name) for name in names]
            chosen = torch.tensor([weights[int(name)] for name in names], dtype=updates[0].dtype, device=updates[0].device)
            base = layer.get_base_layer()
            base.weight.data += combine_updates(updates, chosen, settings).to(base.weight)
    torch.random.set_rng_state(generator_state)
    return model.unload()


def _layers(model: Any) -> Iterator[Any]:
    """Yield the layers with an adapter.  Raises ConfigError if the method has no weight update."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if not isinstance(module, BaseTunerLayer) or not module._all_available_adapter_names():
            continue
        if not hasattr(module, "get_delta_weight"):
            raise ConfigError(f"merge.adapters: PEFT's {type(module).__module__.split('.')[2]} has no update to add up.")
        yield module


def _unscaled_delta(layer: Any, name: str) -> Any:
    """Return the adapter's update ΔW [out, in], without the weight set by `weighted_sum`."""
    if hasattr(layer, "set_scale"):
        layer.set_scale(name, 1.0)
    return layer.get_delta_weight(name)


def combine_updates(updates: list[Any], weights: Any, settings: MergeConfig) -> Any:
    from peft.utils import merge_utils

    density = settings.density or DEFAULT_DENSITY
    if settings.combination == "linear":
        return merge_utils.task_arithmetic(updates, weights)
    if settings.combination == "ties":
        return merge_utils.ties(updates, weights, density, settings.majority_sign)
    if settings.combination == "dare_ties":
        return merge_utils.dare_ties(updates, weights, density, settings.majority_sign)
    if settings.combination == "dare_linear":
        return merge_utils.dare_linear(updates, weights, density)
    return merge_utils.magnitude_prune(updates, weights, density)
