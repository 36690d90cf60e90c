"""KV cache for continuous batching: one slot for each sequence, written in place.

columns    0 ........... start .................. end ........ capacity
slot 0                      k k k k k k k k k k k |
slot 1                            k k k k k k k k |            every slot ends in the same column, as in a left-padded
slot 2                                      k k k |            batch, so the model sees no difference

A decoding step adds one column to all slots.  When a sequence ends, its slot goes to another one, whose keys are written so
that they end in the same column.  At the right edge, all slots move back to the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers.cache_utils import Cache, CacheLayerMixin

SLACK = 64
"""Columns beyond the longest sequence. All slots move once in so many steps."""


class SlottedKVCache(Cache):
    """KV cache with `size` slots of at most `longest` positions each; the first `len(firsts)` slots are in use."""

    layers: Any  # SlotLayers

    def __init__(self, size: int, longest: int):
        self.size = size
        self.capacity = longest + SLACK
        self.end = 0
        self.firsts: list[int] = []
        """First column of each slot in use."""
        super().__init__(layer_class_to_replicate=partial(SlotLayer, self))  # type: ignore[arg-type]

    @property
    def start(self) -> int:
        """The first column that any slot uses."""
        return min(self.firsts, default=self.end)

    @property
    def positions(self) -> list[int]:
        """Number of positions in each slot in use, which is also its next position id."""
        return [self.end - first for first in self.firsts]

    def mask(self, device: Any) -> Any:
        """Attention mask [n, end - start + 1]: columns that each slot uses, including the next one."""
        import torch

        firsts = torch.tensor(self.firsts, device=device)
        return (torch.arange(self.start, self.end + 1, device=device) >= firsts[:, None]).long()

    def make_room(self) -> None:
        """Ensure that a column is free for the next step."""
        if self.end == self.capacity:
            self._move_to(self.end - self.start)

    def advance(self) -> None:
        """Count the column that a step has written."""
        self.end += 1

    def fill(self, layers: Sequence[tuple[Any, Any]], lengths: Sequence[int]) -> None:
        """Put further sequences into the next slots.

        layers: (keys, values) [m, heads, T, dim] of each layer. Sequence j uses the first lengths[j] positions.
        """
        needed = max(lengths)
        if needed > self.end:
            self._move_to(needed)
        used = len(self.firsts)
        self.firsts += [self.end - length for length in lengths]
        for index, (keys, values) in enumerate(layers):
            layer = self._layer(index, keys, values)
            for row, length in enumerate(lengths):
                place = slice(self.end - length, self.end)
                layer.keys[used + row, :, place] = keys[row, :, :length]
                layer.values[used + row, :, place] = values[row, :, :length]

    def vacate(self, slot: int) -> None:
        """Free a slot and move the last slot in use into its place."""
        last = len(self.firsts) - 1
        if slot < last:
            place = slice(self.firsts[last], self.end)
            for layer in self.layers:
                layer.keys[slot, :, place] = layer.keys[last, :, place]
                layer.values[slot, :, place] = layer.values[last, :, place]
            self.firsts[slot] = self.firsts[last]
        self.firsts.pop()

    def _layer(self, index: int, keys: Any, values: Any) -> Any:
        while len(self.layers) <= index:
            self.layers.append(SlotLayer(self))
        layer = self.layers[index]
        if not layer.is_initialized:
            layer.lazy_initialization(keys, values)
        return layer

    def _move_to(self, end: int) -> None:
        """Move all slots so that they end in another column."""
        old, new = slice(self.start, self.end), slice(end - (self.end - self.start), end)
        used = len(self.firsts)
        for layer in self.layers if used else []:
            layer.keys[:used, :, new] = layer.keys[:used, :, old].clone()
            layer.values[:used, :, new] = layer.values[:used, :, old].clone()
        self.firsts = [first + end - self.end for first in self.firsts]
        self.end = end


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [size, heads, capacity, dim]. The model gets a window of them."""

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, slots: SlottedKVCache):
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Allocate memory for all slots once the shapes are known."""
        size, columns = self._slots.size, self._slots.capacity
        self.keys, self.values = (
            states.new_zeros((size, states.shape[1], columns, states.shape[3])) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Write one column; returns the window of the slots in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots, used = self._slots, len(key_states)
        self.keys[:used, :, slots.end] = key_states[:, :, 0]
        self.values[:used, :, slots.end] = value_states[:, :, 0]
        window = slice(slots.start, slots.end + 1)
        return self.keys[:used, :, window], self.values[:used, :, window]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._slots.end - self._slots.start

    def get_max_length(self) -> int:
        return -1
