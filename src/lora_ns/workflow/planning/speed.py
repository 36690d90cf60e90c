"""Measure this machine's speed with a matrix product, an activation function and a tiny kernel."""

import time
from collections.abc import Callable
from functools import partial

import psutil
import torch

from lora_ns.models.base_model import best_device
from lora_ns.store.environment import hardware
from lora_ns.workflow.planning.devices import Device

WIDTH = {"cpu": 256, "cuda": 4096}
"""Matrix width: large enough to load the device, small enough to finish quickly."""
ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
ROUNDS = 5


def measure() -> Device:
    """Measure the device of this process; the best of several short rounds counts.

    On a CPU one core is measured and multiplied by the threads, because other processes would disturb several cores.
    """
    place, threads = best_device(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(place, 1 if place == "cuda" else threads)
    finally:
        torch.set_num_threads(threads)


def _measure(place: str, cores: int) -> Device:
    width, elements = WIDTH[place], ELEMENTS[place]
    rates = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        a = torch.randn(width, width, device=place).to(dtype)
        rates[str(dtype).removeprefix("torch.")] = cores * 2 * width**3 / _seconds(partial(torch.matmul, a, a), place)
    x, small = torch.randn(elements, device=place), torch.randn(1, device=place)
    gpus = hardware()["gpus"]
    return Device(
        name=gpus[0] if gpus else hardware()["cpu"],
        memory=torch.cuda.get_device_properties(0).total_memory if gpus else psutil.virtual_memory().total,
        flops=rates,
        bandwidth=cores * 2 * x.numel() * x.element_size() / _seconds(lambda: torch.nn.functional.silu(x), place),
        launch=_seconds(lambda: small + small, place, repeats=200),
        is_gpu=bool(gpus),
    )


def _seconds(work: Callable[[], object], place: str, repeats: int = 1) -> float:
    """Return the best time of one call, in seconds."""
    work()
    return min((_on_gpu if place == "cuda" else _on_processor)(work, repeats) / repeats for _ in range(ROUNDS))


def _on_processor(work: Callable[[], object], repeats: int) -> float:
    """Return CPU time, which excludes other processes."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return time.process_time() - start


def _on_gpu(work: Callable[[], object], repeats: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return time.perf_counter() - start
