"""Number of optimiser steps of a run, and the batch on each device."""

import math

from lora_ns.config import RunConfig
from lora_ns.errors import ConfigError

DEFAULT_DEVICE_BATCH = 8


def count_steps(config: RunConfig, rows: int) -> int:
    """Optimiser steps of a run.  rows: number of training rows."""
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    return math.ceil(training.num_train_epochs * math.ceil(rows / training.global_batch_size))


def split_batch(global_batch: int, processes: int, per_device: int | None) -> tuple[int, int]:
    """(per-device batch, accumulation steps).  Their product over all processes is the global batch.

    Raises ConfigError that lists the values that would do.
    """
    if global_batch % processes:
        near = sorted({max(1, global_batch // processes) * processes, (global_batch // processes + 1) * processes})
        raise ConfigError(
            f"training.global_batch_size: {global_batch} examples cannot be spread evenly over {processes} processes; "
            f"near values that can: {', '.join(map(str, near))}."
        )
    share = global_batch // processes
    divisors = [n for n in range(1, share + 1) if share % n == 0]
    if per_device is None:
        size = max(n for n in divisors if n <= DEFAULT_DEVICE_BATCH)
    elif per_device >= share:
        size = share
    elif per_device in divisors:
        size = per_device
    else:
        raise ConfigError(
            f"training.per_device_train_batch_size: {per_device} does not divide the {share} examples that each of "
            f"{processes} processes takes of global_batch_size {global_batch}; values that do: {', '.join(map(str, divisors))}."
        )
    return size, share // size
