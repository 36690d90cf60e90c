"""An evaluation over several processes: each row is answered by one of them, and the answers are gathered in order."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from lora_ns.errors import LoraNsError
from lora_ns.store.processes import Processes

Found = TypeVar("Found")


@cache
def _group() -> Any:
    """Return a gloo process group for Python objects, on CPU or GPU.

    The timeout is seven days, because processes wait for the slowest one.
    """
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return distributed.new_group(backend="gloo", timeout=timedelta(days=7))


@contextmanager
def first_goes_first() -> Iterator[None]:
    """Context that the first process runs before the others."""
    processes = Processes.here()
    if processes.count == 1:
        yield
        return
    from torch.distributed import barrier

    if not processes.is_first:
        barrier(_group())
    yield
    if processes.is_first:
        barrier(_group())


def spread(count: int, answer: Callable[[list[int]], list[Found]]) -> list[Found]:
    """Return the results of `answer` for 0 … count-1, in order, in all processes; each number goes to one process.

    answer: numbers -> their results.  If it fails in one process, all processes raise.
    """
    processes = Processes.here()
    if processes.count == 1:
        return answer(list(range(count)))
    from torch.distributed import all_gather_object

    world, error = processes.count, None
    mine: list[Found] = []
    try:
        mine = answer(list(range(processes.rank, count, world)))
    except Exception as failed:  # the other processes must learn of it, or would wait for ever
        error = failed
    told = error if error is None or isinstance(error, LoraNsError) else LoraNsError(f"{type(error).__name__}: {error}")
    parts: list[Any] = [None] * world
    all_gather_object(parts, (mine, told), group=_group())
    if error is not None:
        raise error
    for _, reason in parts:
        if reason is not None:
            raise reason
    return [parts[place % world][0][place // world] for place in range(count)]
