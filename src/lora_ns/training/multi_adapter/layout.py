"""Which member owns which rows of a joint batch.

Members' rows stand one after another, padded to the longest of all where the model does not read them flat.  A member's
dropout is drawn as when it is alone: from its own stream of random numbers, in the shape that its own batch has.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lora_ns.data.collator import IGNORED, Batch
from lora_ns.training.padding_free import concatenated


class CannotGroup(Exception):
    """The runs cannot be trained together on this base model.  The message is the reason."""


class Layout:
    """The current joint batch, and the members' random number generators."""

    def __init__(self, *, flat: bool) -> None:
        """flat: batches are padding-free."""
        self.flat = flat
        self.members: Sequence[int] = ()
        """Member numbers in the order of their rows."""
        self.shapes: Sequence[tuple[int, int]] = ()
        """(rows, padded length) of each member's batch."""
        self._length = 0
        """Length of the longest row."""
        self._supervised: Sequence[int] = ()
        """Number of positions of each member that the output layer computes."""
        self._streams: dict[int, torch.Tensor | tuple[torch.Tensor, torch.Tensor]] = {}

    def join(self, members: Sequence[int], batches: Sequence[Batch], device: Any) -> tuple[Batch, torch.Tensor]:
        """Return (joint batch, owners) on the device.  owners [N]: index in `members` for each loss value.

        The joint batch is padding-free or right-padded.
        """
        self.members = list(members)
        self.shapes = [tuple(batch["input_ids"].shape) for batch in batches]  # type: ignore[misc]
        self._length = max(length for _, length in self.shapes)
        self._supervised = [len(batch["targets"]) for batch in batches if "targets" in batch]
        counts = torch.tensor(self._supervised or [len(batch["labels"]) for batch in batches])
        owners = torch.repeat_interleave(torch.arange(len(batches)), counts)
        joint = concatenated(batches) if self.flat else self._padded(batches)
        on_device = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in joint.items()}
        return on_device, owners.to(device)

    def _padded(self, batches: Sequence[Batch]) -> Batch:
        """All rows, padded [rows, longest]."""
        joint: Batch = {}
        for name, first in batches[0].items():
            fill = IGNORED if name == "labels" else 0
            pieces = [batch[name] for batch in batches]
            if first.dim() == 2:
                pads = [(0, self._length - piece.size(1)) for piece in pieces]
                fill = _padding_of(batches, name) if name == "input_ids" else fill
                pieces = [torch.nn.functional.pad(p, pad, value=fill) for p, pad in zip(pieces, pads, strict=True)]
            joint[name] = torch.cat(pieces)
        return joint

    def sizes(self, count: int) -> list[int]:
        """Split `count` flattened positions by member, in order.  They are all tokens, the supervised tokens, or rows.

        Raises CannotGroup if the count matches none of these.
        """
        rows = [rows for rows, _ in self.shapes]
        if len(rows) == 1:
            return [count]
        if self._supervised:
            tokens = [n * (length if self.flat else self._length) for n, length in self.shapes]
            for sizes in (tokens, list(self._supervised)):
                if count == sum(sizes):
                    return sizes
        elif count % sum(rows) == 0:
            return [count // sum(rows) * n for n in rows]
        raise CannotGroup("a layer sees other positions than the rows have")

    def seed(self, member: int, seed: int) -> None:
        """Seed a member's generator as `set_seed` does."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            self._streams[member] = _state()

    @property
    def streams(self) -> dict[int, Any]:
        """State of each member's generator."""
        return dict(self._streams)

    def restore(self, streams: dict[int, Any]) -> None:
        """Restore the generators' states."""
        self._streams = dict(streams)

    @contextmanager
    def _stream_of(self, member: int) -> Iterator[None]:
        before = _state()
        _set_state(self._streams[member])
        yield
        self._streams[member] = _state()
        _set_state(before)

    def dropped(self, place: int, part: torch.Tensor, share: float) -> torch.Tensor:
        """A member's positions [n, width] after dropout.  place: index into `members`."""
        rows, length = self.shapes[place]
        count, width = part.shape
        longer = self._length - length
        if self.flat or not longer or count != rows * self._length:
            return self._drawn(place, part, share)  # the shape of its batch when trained alone
        mask = self._drawn(place, part.new_ones(rows, length, width), share)
        return part * torch.nn.functional.pad(mask, (0, 0, 0, longer), value=1.0).view(-1, width)

    def _drawn(self, place: int, part: torch.Tensor, share: float) -> torch.Tensor:
        with self._stream_of(self.members[place]):
            return torch.nn.functional.dropout(part, share)


def _padding_of(batches: Sequence[Batch], name: str) -> int:
    """The padding token of a batch that has padding."""
    for batch in batches:
        padding = batch[name][batch["attention_mask"] == 0]
        if len(padding):
            return int(padding[0])
    return 0


def _state() -> Any:
    if not torch.cuda.is_available():
        return torch.get_rng_state()
    return torch.get_rng_state(), torch.cuda.get_rng_state()


def _set_state(state: Any) -> None:
    if isinstance(state, tuple):
        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state(state[1])
    else:
        torch.set_rng_state(state)
