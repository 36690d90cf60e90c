"""Times on a device: each kernel is held up by arithmetic, memory or launch, whichever is slowest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lora_ns.config import RunConfig, check
from lora_ns.errors import ConfigError
from lora_ns.store.paths import Store
from lora_ns.workflow.planning import duration, memory
from lora_ns.workflow.planning.devices import GPUS, Device, known_machine
from lora_ns.workflow.planning.footprint import AnswerFootprint, StepFootprint
from lora_ns.workflow.planning.observed import gpu_kind
from lora_ns.workflow.planning.plan import device_named
from lora_ns.workflow.planning.workload import Questions, Shape, Workload

DEVICE = Device("a device", 10**9, {"float32": 1e9, "bfloat16": 4e9}, 1e8, 1e-3)
STEP = StepFootprint(
    trainable=10, total=100, weights=4000, peak=10_000, large=2000, unchecked=10_000, adapter=40, gradients=40, optimizer=80,
    forward_backward=((10**9, 100, 2),), update=((0, 10**8, 1),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "seconds"),
    [((10**9, 100, 3), 3.0), ((10, 10**8, 2), 2.0), ((0, 4, 500), 0.5)],
    ids=["arithmetic", "memory", "launch"],
)
def test_a_kernel_takes_the_slowest_of_three(kernel: tuple[int, int, int], seconds: float) -> None:
    assert DEVICE.seconds((kernel,), "float32") == pytest.approx(seconds)


def test_half_precision_and_smaller_work_are_faster_but_never_than_a_launch() -> None:
    assert DEVICE.seconds(((10**9, 4, 1),), "bfloat16") == pytest.approx(0.25)
    assert DEVICE.seconds(((10**9, 4, 1),), "float16") == 1.0  # which this device does not know
    assert DEVICE.seconds(((10**9, 4, 1),), "float32", scale=0.5) == 0.5
    assert DEVICE.seconds(((10**9, 4, 1),), "float32", scale=1e-9) == 1e-3


def _config() -> RunConfig:
    data = {"name": "builtin:word_problems", "response_template": "{answer}"}
    return check({"task_name": "t", "task_type": "causal_lm", "model": {"name_or_path": "m"}, "dataset": data}, "t")


def test_training_takes_its_steps_at_the_mean_length() -> None:
    work = Workload(100, 8.0, 5, Shape(4, 16, 3), 2, True, ())
    # 2 micro-batches of 2 kernels, half full; one update
    assert duration.training_seconds(STEP, work, _config(), DEVICE) == pytest.approx(5 * (2 * 2 * 0.5 + 1))
    assert duration.training_seconds(STEP, replace(work, steps=None), _config(), DEVICE) is None


def test_generation_reads_once_and_writes_to_its_last_token() -> None:
    answer = AnswerFootprint(0, 100, weights=10**7, peak=2 * 10**7, large=0, cache_per_token=0, forward=((10**9, 100, 1),))
    asked = Questions("gsm8k-x", "generation", 30, Shape(10, 20), 10.0, new_tokens=4, copies=1)
    # 3 portions: half-full reading, then 4 tokens, each a twentieth of the reading and the weights once
    expected = 3 * (0.5 + 4 * (1 / 20 + 0.1))
    assert duration.evaluation_seconds(answer, asked, _config(), DEVICE) == pytest.approx(expected)
    assert duration.evaluation_seconds(answer, replace(asked, rows=None), _config(), DEVICE) is None


def test_keys_and_values_of_all_that_is_generated_are_held() -> None:
    answer = AnswerFootprint(0, 100, weights=1000, peak=5000, large=0, cache_per_token=100, forward=())
    asked = Questions("gsm8k-x", "generation", 30, Shape(10, 20), 10.0, new_tokens=30, copies=2)
    assert memory.cache_bytes(answer, asked) == 100 * 10 * 2 * 50
    gpu = replace(DEVICE, is_gpu=True)
    assert memory.evaluation_bytes(answer, asked, gpu) == memory.CONTEXT_BYTES + int(memory.BLOCK_OVERHEAD * (1000 + 100_000))
    assert memory.evaluation_bytes(answer, replace(asked, new_tokens=0), gpu) < memory.evaluation_bytes(answer, asked, gpu)


def test_on_a_processor_freed_pieces_stay_in_the_heap() -> None:
    processor = replace(DEVICE, is_gpu=False)
    heap = STEP.peak - STEP.weights - STEP.large
    expected = memory.PROCESS_BYTES + STEP.weights + STEP.large + int(memory.HEAP_OVERHEAD * heap)
    assert memory.training_bytes(STEP, processor) == expected
    holed = replace(STEP, unchecked=10**6)
    held = int(memory.HELD_ANYWAY * (10**6 - STEP.weights))
    assert memory.training_bytes(holed, processor) == memory.PROCESS_BYTES + STEP.weights + held
    assert memory.training_bytes(holed, DEVICE) == memory.training_bytes(STEP, DEVICE), "a GPU has no such heap"
    assert memory.training_bytes(STEP, DEVICE) == memory.CONTEXT_BYTES + int(memory.BLOCK_OVERHEAD * STEP.peak)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA H200", "h200"),
        ("Something Else", None),
    ],
)
def test_gpus_are_known_by_the_drivers_names(name: str, kind: str | None) -> None:
    found = gpu_kind(name)
    assert (found and found.name) == kind


def test_an_unknown_device_is_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no device is called 'h10'.*Did you mean 'h100'.*Known: t4"):
        device_named("h10", Store(tmp_path))
    assert device_named("H100", Store(tmp_path)) is GPUS["h100"]


def test_this_machine_is_measured_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert known_machine(store) is None
    here = device_named("here", store)
    assert here == known_machine(store) == device_named("here", store)
    assert here.memory > 2**30 and here.flops["float32"] > 1e8 and here.bandwidth > 1e7 and 0 < here.launch < 1e-2
