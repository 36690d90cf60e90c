"""Initialisations of LoRA that look at the run's own training data first: EVA, CorDA, LoRA-GA; and LoftQ on a 4-bit base.

The rows are a sample drawn with the run's seed, so the same run starts from the same weights.  PEFT does the mathematics;
what it asks of the caller differs from one to the next, and is evened out here.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lora_ns.errors import ConfigError

Batch = dict[str, Any]
Collate = Callable[[list[dict[str, Any]]], Batch]

MAX_EVA_BATCHES = 2000
"""EVA goes round its batches until its directions stand still; a run where they never do ends here."""


class Calibration:
    """A seeded sample of the training rows, in batches of whatever size an initialisation wants."""

    def __init__(self, rows: Sequence[dict[str, Any]], collate: Collate, count: int, seed: int):
        """rows: the run's tokens.  count: how many of them are looked at."""
        chosen = random.Random(f"calibration-{seed}").sample(range(len(rows)), min(count, len(rows)))
        self._rows = [rows[i] for i in chosen]
        self._collate = collate

    def batches(self, size: int, device: Any) -> list[Batch]:
        """Batches of `size` rows (the last may be smaller), tensors on the device."""
        made = [self._collate(self._rows[i : i + size]) for i in range(0, len(self._rows), size)]
        read = ("input_ids", "attention_mask", "token_type_ids", "labels")
        return [{name: batch[name].to(device) for name in read if name in batch} for batch in made]


def attach_eva(model: Any, peft_config: Any, calibration: Calibration) -> Any:
    """LoRA whose A spans the directions in which the layers' inputs vary most (Paischer et al. 2024, arXiv 2410.07170).

    The rank is spread over the layers by explained variance; a layer that gets none is left as it is.
    """
    from peft import get_peft_model
    from peft.tuners.lora.eva import initialize_lora_eva_weights, prepare_layer_inputs_fn_language_modeling

    # rows a batch, so that a layer that sees one vector a row has as many as it may get directions
    rho = peft_config.eva_config.rho if peft_config.eva_config is not None else 2.0
    wanted = max(8, round(peft_config.r * rho))
    batches = calibration.batches(wanted, model.device)
    if len(batches) > 1 and len(batches[-1]["input_ids"]) < wanted:
        batches.pop()  # too few rows for layers that see one vector a row
    for batch in batches:
        if batch["labels"].dim() == 1:  # a class a row says nothing about which tokens to look at
            del batch["labels"]
    attached = get_peft_model(model, peft_config)
    calls = iter(range(MAX_EVA_BATCHES))

    def forward(network: Any, inputs: Batch) -> Any:
        if next(calls, None) is None:
            raise ConfigError(
                f"peft.init_lora_weights eva: after {MAX_EVA_BATCHES} batches some layer's directions still move, or it sees "
                f"fewer than r times rho = {wanted} vectors a batch. Lower peft.r, eva_config.rho or eva_config.tau, or "
                "set eva_config.use_label_mask: false."
            )
        return network(**inputs)

    def layer_inputs(given: Any, indices: Any, name: str) -> Any:
        tensor = given if not isinstance(given, (tuple, list)) else given[0]
        return tensor.contiguous() if tensor.dim() == 2 else prepare_layer_inputs_fn_language_modeling(given, indices, name)

    with redirect_stdout(sys.stderr):
        initialize_lora_eva_weights(
            attached, batches, forward_fn=forward, prepare_layer_inputs_fn=layer_inputs, show_progress_bar=False
        )
    return attached


def attach_corda(model: Any, peft_config: Any, calibration: Calibration) -> Any:
    """LoRA along the weights' directions as the data uses them (Yang et al. 2024, arXiv 2406.05223)."""
    import torch
    from peft import get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    peft_config.corda_config = peft_config.corda_config or CordaConfig()
    batches = calibration.batches(1, model.device)  # padding would be counted as data
    peft_config.target_modules = _seeing_sequences(model, peft_config, batches[0])

    def run_model() -> None:
        with torch.no_grad():
            for batch in batches:
                model(**batch)

    preprocess_corda(model, peft_config, run_model=run_model)
    attached = get_peft_model(model, peft_config)
    _forget(attached, "eigens")
    return attached


def attach_lora_ga(model: Any, peft_config: Any, calibration: Calibration) -> Any:
    """LoRA along the first gradients of full fine-tuning (Wang et al. 2024, arXiv 2407.05000)."""
    from peft import get_peft_model
    from peft.tuners.lora.config import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga

    peft_config.lora_ga_config = peft_config.lora_ga_config or LoraGAConfig()
    batches = calibration.batches(8, model.device)
    peft_config.target_modules = _targets(model, peft_config)

    def step() -> None:
        for batch in batches:
            model(**batch).loss.backward()

    with warnings.catch_warnings():  # PEFT counts gradients by a hook, which works without a gradient for the input too
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        preprocess_loraga(model, peft_config, step)
    attached = get_peft_model(model, peft_config)
    _forget(attached, "_peft_loraga_grad")
    return attached


INITIALISATIONS: dict[str, Callable[[Any, Any, Calibration], Any]] = {
    "eva": attach_eva,
    "corda": attach_corda,
    "lora_ga": attach_lora_ga,
}


def _targets(model: Any, peft_config: Any) -> list[str]:
    """Full names of the layers that LoRA will stand beside; PEFT's preparation knows neither `all-linear` nor defaults."""
    from copy import deepcopy

    from peft.tuners.lora.model import LoraModel
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    resolved = deepcopy(peft_config)
    if resolved.target_modules is None:
        resolved.target_modules = LoraModel.target_module_mapping.get(model.config.model_type)
    if resolved.target_modules is None:
        raise ConfigError(f"peft.target_modules: is missing; PEFT knows no default for {model.config.model_type}.")
    resolved = _maybe_include_all_linear_layers(resolved, model)
    return [name for name, _ in model.named_modules() if name and LoraModel._check_target_module_exists(resolved, name)]


def _seeing_sequences(model: Any, peft_config: Any, batch: Batch) -> list[str]:
    """The target layers that see a vector a token; a pooler, which sees one a row, gives no covariance of one row."""
    import torch

    seen: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(_: Any, given: Any) -> None:
            seen[name] = given[0].dim()

        return hook

    names = _targets(model, peft_config)
    handles = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return [name for name in names if seen.get(name) == 3]


def _forget(model: Any, attribute: str) -> None:
    """Drops what an initialisation left on the layers: it would stay in memory for the whole training."""
    for module in model.modules():
        if hasattr(module, attribute):
            delattr(module, attribute)


# -- LoftQ -------------------------------------------------------------------------------------------------------------


def initialise_loftq(model: Any, weights: Path) -> None:
    """A and B as the best rank-r answer to what 4-bit rounding lost (Li et al. 2023, arXiv 2310.08659, one iteration).

    model: PEFT model on a 4-bit base.  weights: folder of the base's own safetensors.  PEFT has the same step for CUDA
    alone.  Raises ConfigError where the folder lacks a layer's weights.
    """
    import bitsandbytes
    import torch

    original = dict(_tensors(weights))
    for name, layer in model.named_modules():
        if type(layer).__name__ != "Linear4bit" or not hasattr(layer, "lora_A"):
            continue
        key = name.removeprefix("base_model.model.") + ".weight"
        found = original.get(key) or original.get(key.partition(".")[2])
        if found is None:
            raise ConfigError(f"peft.init_lora_weights loftq: {weights} has no weights {key}.")
        base = layer.get_base_layer().weight
        with torch.no_grad():
            rounded = bitsandbytes.functional.dequantize_4bit(base.data, base.quant_state).float()
            lost = found().to(rounded) - rounded
            left, strength, right = torch.linalg.svd(lost, full_matrices=False)
            rank, scaling = layer.r["default"], layer.scaling["default"]
            root = (strength[:rank] / scaling).sqrt()
            layer.lora_A["default"].weight.copy_(root[:, None] * right[:rank])
            layer.lora_B["default"].weight.copy_(left[:, :rank] * root)


def _tensors(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, reader) of every tensor in the folder's safetensors files."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = list(file.keys())
        for name in names:
            yield name, _reader(path, name)


def _reader(path: Path, name: str) -> Callable[[], Any]:
    def read() -> Any:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            return file.get_tensor(name)

    return read
