"""Measured memory and time of finished runs, from records and scores, to compare with predictions.  Never imports torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_ns.errors import LoraNsError
from lora_ns.experiment.study import Run
from lora_ns.store.artifact import is_finished, read_record
from lora_ns.store.paths import Store
from lora_ns.workflow.planning.devices import GPUS, Device


@dataclass(frozen=True)
class Measured:
    """Measurements of one run; None for what was not measured."""

    hardware: Mapping[str, Any]
    """Hardware of the training, from the record."""
    train_bytes: int | None
    train_seconds: float | None
    evaluate_bytes: int | None
    """Largest peak of the evaluations."""
    evaluate_seconds: float | None
    """Sum over all evaluations."""

    def was_on(self, device: Device) -> bool:
        """Whether the run was trained on this kind of device."""
        gpus = self.hardware.get("gpus") or []
        if not device.is_gpu or not gpus:
            return not gpus and device.name == self.hardware.get("cpu")
        return device.name == gpus[0] or gpu_kind(gpus[0]) is device


def gpu_kind(name: str) -> Device | None:
    """Return the GPUS entry for a driver's GPU name (`NVIDIA A100-SXM4-80GB`), or None."""
    plain = name.lower().replace(" ", "").replace("-", "")
    fitting = [kind for kind in GPUS.values() if all(part in plain for part in kind.name.split("-"))]
    return max(fitting, key=lambda kind: len(kind.name), default=None)


def measured(run: Run, store: Store) -> Measured | None:
    """Return the run's measurements; None if it has neither adapter nor score."""
    scores = [content for path in run.scores if (content := _read(path)) is not None]
    costs = [score.get("cost") or {} for score in scores]
    seconds = [cost["evaluate_seconds"] for cost in costs if cost.get("evaluate_seconds") is not None]
    peaks = [cost["evaluate_peak_memory_bytes"] for cost in costs if cost.get("evaluate_peak_memory_bytes") is not None]
    asked = {"evaluate_bytes": max(peaks, default=None), "evaluate_seconds": sum(seconds) if seconds else None}
    if is_finished(folder := store.adapter(run.name)):
        try:
            circumstances = read_record(folder, diverged_too=True)["circumstances"]
        except (LoraNsError, KeyError):
            return None
        took = circumstances.get("seconds", {}).get("training")
        peak = circumstances.get("peak_gpu_memory_bytes", {}).get("training")
        peak = peak or circumstances.get("peak_memory_bytes", {}).get("training")
        return Measured(circumstances.get("hardware", {}), peak, took, **asked)
    if not scores:
        return None
    hardware = scores[0].get("trained", {}).get("circumstances", {}).get("hardware", {})
    return Measured(hardware, costs[0].get("train_peak_memory_bytes"), costs[0].get("train_seconds"), **asked)


def _read(path: Any) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
