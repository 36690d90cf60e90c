"""Whose rows are where in a joint batch.

Members' rows stand one after another.  A causal model reads those of several flat, all tokens in one row without padding,
and only its attention sees them apart; one member's rows, and those of other models, are padded to the longest of all.
A member's dropout is drawn as when it is alone: from its own stream of random numbers, in the shape that its own padded
batch has.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lora_ns.training.collate import IGNORED, Batch


class Unfusable(Exception):
    """The runs cannot be trained at once on this base; the message is the reason."""


class _Joint:
    """The joint batch that goes through the base.  members: numbers of those that take part, in the order of their rows."""

    flat = False
    members: Sequence[int] = ()
    shapes: Sequence[tuple[int, int]] = ()
    """(rows, padded length) of each member's own batch."""
    real: Sequence[torch.Tensor] = ()
    """Places of each member's tokens in its own padded batch, flattened."""
    length = 0
    """Of the longest row of all."""
    supervised: Sequence[int] = ()
    """Positions of each member's whose output is read, to which a causal model's last layer narrows down."""


class _JointOfThread(_Joint, threading.local):
    """The one that goes through it in a thread."""


class Layout:
    """The joint batch of the moment, and the members' streams of random numbers."""

    def __init__(self, *, reads_flat: bool, side_by_side: bool = False) -> None:
        """reads_flat: whether the model can read all rows as one.

        side_by_side: whether each thread has a joint batch of its own; a GPU's checkpoints are computed again in another.
        """
        self.reads_flat = reads_flat
        self._now: _Joint = _JointOfThread() if side_by_side else _Joint()
        self._streams: dict[int, torch.Tensor | tuple[torch.Tensor, torch.Tensor]] = {}
        self._drawing = threading.Lock()
        """Of torch's one generator."""

    @property
    def members(self) -> Sequence[int]:
        """Numbers of those that take part, in the order of their rows."""
        return self._now.members

    @property
    def shapes(self) -> Sequence[tuple[int, int]]:
        """(rows, padded length) of each member's own batch."""
        return self._now.shapes

    def join(self, members: Sequence[int], batches: Sequence[Batch], device: Any) -> tuple[Batch, torch.Tensor]:
        """(the joint batch, place of each token's or row's member in `members`), on the device."""
        now = self._now
        now.members = list(members)
        now.shapes = [tuple(batch["input_ids"].shape) for batch in batches]  # type: ignore[misc]
        now.real = [batch["attention_mask"].reshape(-1).nonzero()[:, 0].to(device) for batch in batches]
        now.length = max(length for _, length in now.shapes)
        labels = [batch["labels"] for batch in batches]
        now.supervised = [int((own[:, 1:] != IGNORED).sum()) for own in labels if own.dim() == 2]
        now.flat = self.reads_flat and len(batches) > 1
        joint, owners = self._flat(batches) if now.flat else self._padded(batches)
        return {name: value.to(device) for name, value in joint.items()}, owners.to(device)

    def _flat(self, batches: Sequence[Batch]) -> tuple[Batch, torch.Tensor]:
        """Every token once: input_ids, position_ids, labels and owners [1, tokens]."""
        parts: dict[str, list[torch.Tensor]] = {"input_ids": [], "position_ids": [], "labels": []}
        owners = []
        for place, batch in enumerate(batches):
            real = batch["attention_mask"].bool()
            labels = batch["labels"].clone()
            labels[:, 0] = IGNORED  # what stands before a row's first token is another row's
            positions = torch.arange(real.size(1)).expand_as(real)
            for name, value in (("input_ids", batch["input_ids"]), ("position_ids", positions), ("labels", labels)):
                parts[name].append(value[real])
            owners.append(torch.full((int(real.sum()),), place))
        return {name: torch.cat(pieces)[None] for name, pieces in parts.items()}, torch.cat(owners)[None]

    def _padded(self, batches: Sequence[Batch]) -> tuple[Batch, torch.Tensor]:
        """All rows [rows, longest of all], padded on the right; owners [rows]."""
        joint: Batch = {}
        for name, first in batches[0].items():
            fill = IGNORED if name == "labels" else 0
            pieces = [batch[name] for batch in batches]
            if first.dim() == 2:
                pads = [(0, self._now.length - piece.size(1)) for piece in pieces]
                fill = _padding_of(batches, name) if name == "input_ids" else fill
                pieces = [torch.nn.functional.pad(p, pad, value=fill) for p, pad in zip(pieces, pads, strict=True)]
            joint[name] = torch.cat(pieces)
        rows = torch.tensor([rows for rows, _ in self.shapes])
        return joint, torch.repeat_interleave(torch.arange(len(batches)), rows)

    def sizes(self, count: int) -> list[int]:
        """How many of so many flattened positions (tokens, those whose output is read, or rows) each member has, in order.

        Raises Unfusable for a layer that sees other positions.
        """
        now, rows = self._now, [rows for rows, _ in self.shapes]
        if len(rows) == 1:
            return [count]
        if now.supervised:
            tokens = [len(real) for real in now.real] if now.flat else [n * now.length for n in rows]
            for sizes in (tokens, list(now.supervised)):
                if count == sum(sizes):
                    return sizes
        elif count % sum(rows) == 0:
            return [count // sum(rows) * n for n in rows]
        raise Unfusable("a layer sees other positions than the rows have")

    # -- dropout -------------------------------------------------------------------------------------------------------

    def seed(self, member: int, seed: int) -> None:
        """A member's stream starts where `set_seed` would have it start."""
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            self._streams[member] = _state()

    @property
    def streams(self) -> dict[int, Any]:
        """Where each member's stream stands."""
        return dict(self._streams)

    def restore(self, streams: dict[int, Any]) -> None:
        """Puts streams back where they stood."""
        self._streams = dict(streams)

    @contextmanager
    def _stream_of(self, member: int) -> Iterator[None]:
        with self._drawing:
            before = _state()
            _set_state(self._streams[member])
            yield
            self._streams[member] = _state()
            _set_state(before)

    def dropped(self, place: int, part: torch.Tensor, share: float) -> torch.Tensor:
        """A member's positions [n, width] after dropout.  place: of the member in `members`."""
        rows, length = self.shapes[place]
        count, width = part.shape
        shape = (rows, length, width)
        if self._now.flat and count == len(self._now.real[place]):
            return part * self._mask(place, part, shape, share).view(-1, width)[self._now.real[place]]
        longer = self._now.length - length
        if not self._now.flat and longer and count == rows * self._now.length:
            mask = torch.nn.functional.pad(self._mask(place, part, shape, share), (0, 0, 0, longer), value=1.0)
            return part * mask.view(-1, width)
        with self._stream_of(self.members[place]):  # in the shape that it has alone
            return torch.nn.functional.dropout(part, share)

    def _mask(self, place: int, like: torch.Tensor, shape: tuple[int, ...], share: float) -> torch.Tensor:
        with self._stream_of(self.members[place]):
            return torch.nn.functional.dropout(like.new_ones(shape), share)

    # -- attention -----------------------------------------------------------------------------------------------------

    def attention(
        self,
        module: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        *,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Causal attention within each row.  query [rows, heads, tokens, width] -> [rows, tokens, heads, width]; of a flat
        batch there is one row.

        Padding stands behind a row's tokens, where causal attention never looks.
        """
        if not self._now.flat:
            return _causal(query, key, value, scaling).transpose(1, 2).contiguous(), None
        sizes = self.sizes(query.size(2))
        apart = [tensor[0].transpose(0, 1).split(sizes) for tensor in (query, key, value)]
        outputs = []
        for place, (rows, length) in enumerate(self.shapes):
            queries, keys, values = (self._in_rows(parts[place], place) for parts in apart)
            seen = _causal(queries, keys, values, scaling)
            outputs.append(seen.transpose(1, 2).reshape(rows * length, *seen.shape[1::2])[self._now.real[place]])
        return torch.cat(outputs)[None], None

    def _in_rows(self, part: torch.Tensor, place: int) -> torch.Tensor:
        """[tokens, heads, width] -> [rows, heads, length, width], zeros where a row has ended."""
        rows, length = self.shapes[place]
        room = part.new_zeros(rows * length, *part.shape[1:]).index_copy(0, self._now.real[place], part)
        return room.view(rows, length, *part.shape[1:]).transpose(1, 2)


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Attention of [rows, heads, tokens, width], in that shape."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.size(1) != key.size(1)
    )


def _padding_of(batches: Sequence[Batch], name: str) -> int:
    """The padding token, as it stands in a batch that has any."""
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
