"""Merge adapters into their base model.  READS adapters   WRITES results/merged/<run>-<digest>

The result loads with plain `AutoModel….from_pretrained`.  Its folder also has tokenizer, generation config and model card.
Its logits are compared with base + adapter first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.config import RunConfig
from lora_ns.config.method_constraints import why_not_merged
from lora_ns.data.tokenizer import load_tokenizer
from lora_ns.errors import ConfigError, LoraNsError
from lora_ns.merging import combine_adapters, logit_parity
from lora_ns.merging.model_card import model_card
from lora_ns.models.adapter import load_adapter, load_trained, without_adapter
from lora_ns.models.base_model import load_base, make_deterministic
from lora_ns.models.machine import check_machine
from lora_ns.models.peft_config import reason_of
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, is_finished, read_record
from lora_ns.store.environment import code_state, package_versions
from lora_ns.store.integrity import load_verified
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROUNDING = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Maximum relative logit difference that rounding to each dtype explains."""


@dataclass(frozen=True)
class Part:
    """One adapter of a merge."""

    name: str
    folder: Path
    weight: float


def merge(run: Run, *, output: Path | None = None) -> Path:
    """Return the folder of the merged model, which is created if missing.

    output: a folder to use instead of the store's.  Raises ConfigError if the method cannot be merged, LoraNsError if the
    merged model's logits differ too much from those of base + adapter.
    """
    run = identified(run)
    config, target = run.config, output or run.merged
    if is_finished(target) and output is None:
        load_verified(target)
        return target
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output: {output} is a file; name a folder.")
    if output is not None and output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output: {output} is not empty.")
    check_mergeable(config)
    check_machine(config, training=False)
    meter = record.Meter()
    parts = parts_of(run)
    with atomic_artifact(target) as (folder, notes):
        make_deterministic(config.seed)
        with meter.part("loading"):
            tokenizer = load_tokenizer(config.model, run.store)
            expected, effect, against = _expected(run, parts, tokenizer)
        with meter.part("merging"):
            merged = _merged(run, parts)
            expected = expected or logit_parity.probe(merged.eval(), tokenizer)
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            del merged
        with meter.part("comparing"):
            found = logit_parity.probe(load_base(_plain(run), place=str(folder)).eval(), tokenizer)
        figures = {
            **logit_parity.compare(expected, found),
            "probes": len(logit_parity.PROBES),
            "against": against,
            "adapter_effect": effect,
        }
        _check_same(figures, config)
        facts = _facts(run, parts, figures)
        (folder / "README.md").write_text(model_card(config, facts), encoding="utf-8")
        notes |= record.describe(
            "merge",
            run.merged_digest,
            {"run": config.model_dump(exclude={"evaluation"})},
            inputs={"adapter": parts[0].name} if len(parts) == 1 else {part.name: f"{part.weight:g}" for part in parts},
            parity=figures,
            warnings=_warnings(run, parts),
            meter=meter,
        )
    return target


def check_mergeable(config: RunConfig) -> None:
    """Raises ConfigError if the method's adapter cannot be merged into the base model.  Needs no trained adapter."""
    reason = why_not_merged(config.peft.method)
    if reason is not None and not config.merge.adapters:
        raise ConfigError(f"peft.method {config.peft.method} cannot be merged: {reason}. Use the adapter as it is.")
    if config.peft.fields.get("layer_replication"):
        raise ConfigError(
            "peft.layer_replication: layers that share their weights cannot each have an adapter folded in. Use the adapter "
            "as it is."
        )


def identified(run: Run) -> Run:
    """Return the run with a method name and with checksums of its external adapters, so that its digest depends on them."""
    config, store = run.config, run.store
    if not config.merge.adapters:
        return run
    named = []
    for entry in config.merge.adapters:
        folder = _folder(entry.adapter, store)
        known = is_finished(store.adapter(entry.adapter)) and store.adapter(entry.adapter) == folder
        named.append(entry.model_copy(update={"sha256": None if known else _checksum(folder)}))
    name = f"{config.merge.combination}_of_{len(named)}"
    settings = config.merge.model_copy(update={"adapters": named})
    return Run(config.model_copy(update={"merge": settings, "method_name": name}), store)


def _folder(name: str, store: Store) -> Path:
    """Return the folder of an adapter that is named by run or by path.  Raises ConfigError if there is none."""
    places = [store.adapter(name), Path(name).expanduser()]
    found = next((place for place in places if (place / "adapter_config.json").is_file()), None)
    if found is None:
        raise ConfigError(f"merge.adapters: {name!r} is neither a run with an adapter nor a folder that holds one.")
    return found


def _checksum(folder: Path) -> str:
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ConfigError(f"merge.adapters: {folder} has no adapter_model.safetensors.")
    return sha256_file(path)


def parts_of(run: Run) -> list[Part]:
    """Return the adapters of a merge: those in merge.adapters, or the run's own."""
    named = run.config.merge.adapters
    if named:
        return [Part(entry.adapter, _folder(entry.adapter, run.store), entry.weight) for entry in named]
    return [Part(run.name, run.adapter, 1.0)]


def _expected(
    run: Run, parts: list[Part], tokenizer: PreTrainedTokenizerBase
) -> tuple[logit_parity.Logits | None, float | None, str]:
    """Return (reference logits, maximum logit change by the adapter, description of the reference).

    The logits are None for combinations that only the merge itself computes.
    """
    config = run.config
    if not config.merge.adapters:
        model = load_trained(run, parts[0].folder).eval()
        expected = logit_parity.probe(model, tokenizer)
        if config.peft.method == "full":
            return expected, None, "the trained weights"
        with without_adapter(model):
            base = logit_parity.probe(model, tokenizer)
        return expected, logit_parity.compare(base, expected)["max_logit_difference"], "base + adapter"
    model = combine_adapters.stack(load_base(run), [part.folder for part in parts], config.model.name_or_path)
    if config.merge.combination == "linear":
        weighted = combine_adapters.weighted_sum(model, [part.weight for part in parts])
        if weighted is not None:
            return logit_parity.probe(weighted.eval(), tokenizer), None, "base + adapters, each by its weight"
    return None, None, "the merged weights before they were stored"


def _merged(run: Run, parts: list[Part]) -> Any:
    """Return the unquantised base model with the adapters merged, in merge.dtype."""
    config = run.config
    if config.peft.method == "full" and not config.merge.adapters:
        return _in_dtype(load_trained(run, parts[0].folder), config)
    base: Any = load_base(run)
    if config.model.quantization != "none":
        base = base.dequantize()  # PEFT's merge would quantise the sum again
    base = _in_dtype(base, config, only_wider=True)
    name = config.model.name_or_path
    try:
        if config.merge.adapters:
            stacked = combine_adapters.stack(base, [part.folder for part in parts], name)
            merged = combine_adapters.fold(stacked, [part.weight for part in parts], config.merge, config.seed)
        else:
            merged = _with_trained_heads(load_adapter(base, parts[0].folder, name).merge_and_unload())
    except (AttributeError, NotImplementedError, ValueError, RuntimeError) as error:
        raise ConfigError(f"peft.method {config.peft.method} cannot be merged: {reason_of(error)}") from error
    return _in_dtype(merged, config)


def _with_trained_heads(model: Any) -> Any:
    """Return the model with PEFT's wrapper of fully trained layers removed.  LN tuning's merge leaves it in place."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.modules_to_save[module.active_adapters[0]])
    return model


def _in_dtype(model: Any, config: RunConfig, *, only_wider: bool = False) -> Any:
    """Return the model in merge.dtype.  only_wider: convert only to float32, to keep precision before the merge."""
    import torch

    if config.merge.dtype is None or (only_wider and config.merge.dtype != "float32"):
        return model
    return model.to(getattr(torch, config.merge.dtype))


def _plain(run: Run) -> Run:
    """Return a run that loads the merged model: unquantised, in merge.dtype."""
    config = run.config
    model = config.model.model_copy(update={"quantization": "none", "dtype": config.merge.dtype or config.model.dtype})
    return Run(config.model_copy(update={"model": model}), run.store)


def _check_same(figures: dict[str, Any], config: RunConfig) -> None:
    tolerance = config.merge.tolerance
    if tolerance is None:
        if config.model.quantization != "none":
            return  # dequantising changes the logits, and the model card reports by how much
        dtypes = {config.model.dtype, config.merge.dtype or config.model.dtype}
        tolerance = max(ROUNDING[dtype] for dtype in dtypes)
    difference, scale = figures["max_logit_difference"], figures["max_logit"]
    if not difference <= tolerance * max(scale, 1e-12):
        raise LoraNsError(
            f"the merged model's logits differ from {figures['against']} by up to {difference:.3g} (greatest logit "
            f"{scale:.3g}), more than the tolerance of {tolerance:g} allows (merge.tolerance); nothing was kept."
        )


def _facts(run: Run, parts: list[Part], figures: dict[str, Any]) -> dict[str, Any]:
    code = code_state()
    return {
        "adapters": [(part.name, part.weight) for part in parts],
        "rows": run.rows.name,
        "commit": code["commit"],
        "dirty": code["dirty"],
        "packages": package_versions(),
        "parity": figures,
        "dtype": run.config.merge.dtype or run.config.model.dtype,
    }


def _warnings(run: Run, parts: list[Part]) -> list[str]:
    """Return a warning for each adapter that was trained on another base model."""
    wanted = run.model_identity
    found = []
    for part in parts:
        if is_finished(part.folder):
            trained_on = json.loads(read_record(part.folder)["inputs"]["model"])
            if trained_on != wanted:
                found.append(f"the adapter {part.name} was trained on another base model")
    return found
