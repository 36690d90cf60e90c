"""Trace memory and kernels of code on fake tensors, which have shapes and dtypes but no values."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


# torch's flop registry lacks the CPU attention kernels
_ON_PROCESSOR: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)
    ),
}

_VALUES = (aten.item, aten._local_scalar_dense, aten.is_nonzero)

LARGE_PIECE = 32 * 2**20
"""Bytes from which glibc always uses mmap, so that freeing returns the memory to the system (mallopt(3), M_MMAP_THRESHOLD)."""


class FakeTrace(TorchDispatchMode):
    """Counts bytes of live storages, their peak, and the work of each kernel.

    chosen: assumed number of true mask positions if a shape depends on a mask, because fake tensors have no values. None
    for real tensors.
    """

    def __init__(self, chosen: int | None = None) -> None:
        super().__init__()
        self.live = self.peak = self.large = self.large_at_peak = 0
        """Bytes; large: bytes in storages of at least LARGE_PIECE."""
        self.kernels: Counter[tuple[int, int]] = Counter()
        """(FLOPs of matrix products, bytes read and written) -> number of calls."""
        self._chosen = chosen
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def note(self, tensor: Any) -> None:
        """Count the tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._add(size)
        if self.live > self.peak:
            self.peak, self.large_at_peak = self.live, self.large
        weakref.finalize(storage, self._add, -size)

    def _add(self, size: int) -> None:
        self.live += size
        self.large += size if abs(size) >= LARGE_PIECE else 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, function._overloadpacket
        if self._chosen is None:
            result = function(*args, **kwargs)
        elif packet in _VALUES:
            return 1  # LoHa reads a value to decide on module dropout; any value works
        else:
            result = self._without_content(function, packet, args, kwargs, self._chosen)
        for tensor in _tensors(result):
            self.note(tensor)
        if not function.is_view:
            moved = sum(t.numel() * t.element_size() for t in _tensors((args, kwargs, result)))
            self.kernels[_flops(packet, args, kwargs, result), moved] += 1
        return result

    def _without_content(self, function: Any, packet: Any, args: Any, kwargs: Any, chosen: int) -> Any:
        """Run the kernel. If its output shape depends on a mask, assume `chosen` true positions."""
        if packet is aten.nonzero:
            return torch.zeros(chosen, args[0].ndim, dtype=torch.long)
        if packet is aten.bincount:
            return torch.zeros(kwargs.get("minlength", args[2] if len(args) > 2 else 1), dtype=torch.long)
        if packet is aten.index and len(args[1]) == 1 and args[1][0].dtype is torch.bool:
            args = (args[0], [torch.zeros(chosen, dtype=torch.long)] * args[1][0].ndim)
        return function(*args, **kwargs)


def _tensors(values: Any) -> Iterator[Any]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _flops(packet: Any, args: Any, kwargs: Any, result: Any) -> int:
    if packet in _ON_PROCESSOR:
        return _ON_PROCESSOR[packet](*args, **kwargs)
    return flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
