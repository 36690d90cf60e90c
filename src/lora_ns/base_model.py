"""A builtin base model as an artefact.  WRITES data/models/<name>-<digest>"""

from __future__ import annotations

from pathlib import Path

from lora_ns import record
from lora_ns.store import Store, base_model_spec, exists, making


def make_base_model(name: str, store: Store, *, quiet: bool = False) -> Path:
    """Pretrains `builtin:<name>` where it is missing; returns its folder.  Raises ConfigError for an unknown name."""
    target = store.base_model(name)
    if exists(target):
        return target
    spec = base_model_spec(name)
    from lora_ns.pretrain import pretrain

    meter = record.Meter()
    with making(target) as (folder, notes):
        with meter.part("training"):
            facts = pretrain(name.removeprefix("builtin:"), folder)
        seconds, hardware = facts.pop("seconds", None), facts.pop("hardware")
        notes |= record.describe(
            "pretrain", store.base_digest(name), {"name": name, "spec": spec}, inputs={}, facts=facts, meter=meter
        )
        notes["circumstances"] |= {"pretraining_seconds": seconds, "hardware": hardware}
    return target
