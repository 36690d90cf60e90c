"""Data-driven LoRA initialisations (EVA, CorDA, LoRA-GA), and LoftQ on a 4-bit base model.

The calibration rows are sampled with the run's seed, so a run always starts from the same weights.  PEFT computes the
initialisations.  This module gives its different functions one interface.
"""

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
"""EVA repeats its batches until its directions converge.  After this many batches it fails."""


class Calibration:
    """A seeded sample of the training rows, in batches of any size."""

    def __init__(self, rows: Sequence[dict[str, Any]], collate: Collate, count: int, seed: int):
        """rows: the run's tokenised rows.  count: rows to sample."""
        chosen = random.Random(f"calibration-{seed}").sample(range(len(rows)), min(count, len(rows)))
        self._rows = [rows[i] for i in chosen]
        self._collate = collate

    def batches(self, size: int, device: Any) -> list[Batch]:
        """Return batches of `size` rows on the device (the last may be smaller)."""
        made = [self._collate(self._rows[i : i + size]) for i in range(0, len(self._rows), size)]
        read = ("input_ids", "attention_mask", "token_type_ids", "labels")
        return [{name: batch[name].to(device) for name in read if name in batch} for batch in made]


def attach_eva(model: Any, peft_config: Any, calibration: Calibration) -> Any:
    """Return the model with LoRA initialised by EVA (Paischer et al. 2024, arXiv 2410.07170).

    A spans the directions of largest variance of the layers' inputs.  Ranks are distributed over the layers by explained
    variance.  A layer of rank 0 gets no adapter.
    """
    from peft import get_peft_model
    from peft.tuners.lora.eva import initialize_lora_eva_weights, prepare_layer_inputs_fn_language_modeling

    # rows per batch: a layer with one input vector per row needs as many vectors as its largest rank
    rho = peft_config.eva_config.rho if peft_config.eva_config is not None else 2.0
    wanted = max(8, round(peft_config.r * rho))
    batches = calibration.batches(wanted, model.device)
    if len(batches) > 1 and len(batches[-1]["input_ids"]) < wanted:
        batches.pop()  # too few rows for layers with one input vector per row
    for batch in batches:
        if batch["labels"].dim() == 1:  # EVA masks tokens by their labels, and class labels are per row
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
    """Return the model with LoRA initialised by CorDA, from the inputs' covariance (Yang et al. 2024, arXiv 2406.05223)."""
    import torch
    from peft import get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    peft_config.corda_config = peft_config.corda_config or CordaConfig()
    batches = calibration.batches(1, model.device)  # one row per batch, because padding would enter the covariance
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
    """Return the model with LoRA initialised from full fine-tuning's first gradients (Wang et al. 2024, arXiv 2407.05000)."""
    from peft import get_peft_model
    from peft.tuners.lora.config import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga

    peft_config.lora_ga_config = peft_config.lora_ga_config or LoraGAConfig()
    batches = calibration.batches(8, model.device)
    peft_config.target_modules = _targets(model, peft_config)

    def step() -> None:
        for batch in batches:
            model(**batch).loss.backward()

    with warnings.catch_warnings():  # PEFT's hook also works without a gradient for the input
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
    """The full names of LoRA's target layers.  PEFT's preprocessing supports neither `all-linear` nor default targets."""
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
    """The target layers with one input vector per token.  A pooler has one per row: too few for CorDA's covariance."""
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
    """Delete an attribute that an initialisation left on the layers, to free its memory before training."""
    for module in model.modules():
        if hasattr(module, attribute):
            delattr(module, attribute)


def initialise_loftq(model: Any, weights: Path) -> None:
    """Set A and B to the best rank-r fit of the quantisation error (LoftQ, Li et al. 2023, arXiv 2310.08659, one iteration).

    model: PEFT model on a 4-bit base.  weights: folder of the base model's unquantised safetensors.  PEFT's own LoftQ needs
    CUDA.  Raises ConfigError if the folder lacks a layer's weights.
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
    """Yield (name, reader) for every tensor in the folder's safetensors files."""
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
