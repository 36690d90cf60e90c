"""Memory and speed of devices.  Never imports torch.

EFFICIENCY is the share of the vendor's peak FLOPs that a training step reaches.
"""

import json
import os
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from lora_ns.config.gpus import DATA_SHEETS, Gpu
from lora_ns.config.text_files import replace_text
from lora_ns.store.paths import Store
from lora_ns.workflow.planning.footprint import Kernels

GIBIBYTE = 2**30
TERA = 1e12
GIGA = 1e9

EFFICIENCY = 0.5
"""Share of a GPU's peak FLOPs that matrix products of a training step reach. Published model FLOPs utilisation in training
is 0.3 to 0.6 (PaLM, Chowdhery et al. 2022, arXiv 2204.02311, section 4.1)."""
BANDWIDTH_EFFICIENCY = 0.75
LAUNCH_SECONDS = 10e-6
"""Launch overhead of Python and driver per GPU kernel, without a compiled graph."""


@dataclass(frozen=True)
class Device:
    """Memory and reachable speed of one device."""

    name: str
    memory: int
    """Bytes."""
    flops: dict[str, float]
    """FLOP/s of matrix products, by dtype."""
    bandwidth: float
    """Bytes per second of memory-bound kernels."""
    launch: float
    """Minimum seconds per kernel."""
    is_gpu: bool = True

    def seconds(self, kernels: Kernels, dtype: str, scale: float = 1.0) -> float:
        """Return the time of kernels with `scale` times the work. Each takes the longest of arithmetic, memory and launch time
        (roofline model, Williams et al. 2009)."""
        return _seconds(kernels, self.flops.get(dtype) or self.flops["float32"], self.bandwidth, self.launch, scale)


@lru_cache(maxsize=4096)  # seeds of an experiment have equal arguments
def _seconds(kernels: Kernels, rate: float, bandwidth: float, launch: float, scale: float) -> float:
    return sum(calls * max(launch, scale * operations / rate, scale * moved / bandwidth) for operations, moved, calls in kernels)


def _gpu(name: str, sheet: Gpu) -> Device:
    halves = {"float16": sheet.half, **({"bfloat16": sheet.half} if sheet.bfloat16 else {})}
    return Device(
        name=name,
        memory=int(sheet.gibibytes * GIBIBYTE),
        flops={dtype: EFFICIENCY * rate * TERA for dtype, rate in {"float32": sheet.float32, **halves}.items()},
        bandwidth=BANDWIDTH_EFFICIENCY * sheet.gigabytes_a_second * GIGA,
        launch=LAUNCH_SECONDS,
    )


GPUS = {name: _gpu(name, sheet) for name, sheet in DATA_SHEETS.items()}
PROCESSOR = Device("any processor", 0, {"float32": 50e9, "bfloat16": 5e9, "float16": 5e9}, 10e9, 5e-6, is_gpu=False)
"""Assumed CPU if this machine was not measured: a few server cores."""


def known_machine(store: Store) -> Device | None:
    """Return this machine as measured earlier; None if it was not."""
    try:
        return Device(**json.loads(_remembered(store).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember_machine(device: Device, store: Store) -> None:
    """Save this machine's measurement in results/scratch."""
    replace_text(_remembered(store), json.dumps(asdict(device), indent=1) + "\n")


def _remembered(store: Store) -> Path:
    return store.speed(platform.node(), len(os.sched_getaffinity(0)))
