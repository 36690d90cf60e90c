"""What one training step, or one portion of questions, takes: the result of a trace.  Never imports torch.

Sizes in bytes; kernels as (floating-point operations of matrix products, bytes read and written, calls).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

Kernels = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Footprint:
    """What training and answering have in common."""

    trainable: int
    total: int
    """Parameters; of quantised weights the unpacked number."""
    weights: int
    """Base model and adapter."""
    peak: int
    """The most that is there at once, weights included."""
    large: int
    """Of what is there then beside the weights, in pieces that malloc takes from the system each by itself."""

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """As it was written.  Raises TypeError for what is none."""
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
    """What of the weights is saved."""
    gradients: int
    optimizer: int
    """The optimiser's state between steps."""
    forward_backward: Kernels
    """Of each micro-batch."""
    update: Kernels
    """Of clipping and optimiser, once a step."""
    unchecked: int
    """`peak` as it would be without checkpointing."""

    @property
    def activations(self) -> int:
        """What is there beside weights, gradients and the optimiser's state when the most is there."""
        return max(0, self.peak - self.weights - self.gradients - self.optimizer)


@dataclass(frozen=True)
class AnswerFootprint(Footprint):
    """One portion of questions read; of a model that generates, before its first token."""

    cache_per_token: int
    """Keys and values of one token of one sequence; 0 for a model that does not generate."""
    forward: Kernels
