"""Footprints: traced memory and kernels of one training step or one evaluation batch.  Never imports torch.

Sizes are in bytes. Kernels are (FLOPs of matrix products, bytes read and written, calls).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

Kernels = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Footprint:
    """Fields of both training and evaluation footprints."""

    trainable: int
    total: int
    """All parameters; quantised weights count unpacked."""
    weights: int
    """Bytes of base model and adapter."""
    peak: int
    """Peak memory, weights included."""
    large: int
    """Bytes at the peak, besides the weights, in large allocations that malloc makes with mmap."""

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Build a footprint from its JSON form.  Raises TypeError if it is none."""
        if not isinstance(content, Mapping):
            raise TypeError(f"{type(content).__name__} is no footprint")
        read: dict[str, Any] = {key: _kernels(value) if isinstance(value, list) else value for key, value in content.items()}
        return cls(**read)


def _kernels(lines: list[list[int]]) -> Kernels:
    return tuple((flops, moved, calls) for flops, moved, calls in lines)


@dataclass(frozen=True)
class StepFootprint(Footprint):
    """One optimiser step over one micro-batch."""

    adapter: int
    """Bytes of the trainable weights."""
    gradients: int
    optimizer: int
    """The optimiser's state between steps."""
    forward_backward: Kernels
    """Kernels of one micro-batch."""
    update: Kernels
    """Kernels of clipping and optimiser, once per step."""
    unchecked: int
    """`peak` without gradient checkpointing."""

    @property
    def activations(self) -> int:
        """Bytes at the peak besides weights, gradients and optimiser state."""
        return max(0, self.peak - self.weights - self.gradients - self.optimizer)


@dataclass(frozen=True)
class AnswerFootprint(Footprint):
    """One forward pass over an evaluation batch; for generation, the prefill."""

    cache_per_token: int
    """KV cache bytes of one token of one sequence; 0 for a model that does not generate."""
    forward: Kernels
