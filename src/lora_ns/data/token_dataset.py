"""A run's tokenised rows, read from a memory-mapped Arrow file without loading it whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


class TokenRows(Sequence[dict[str, Any]]):
    """Rows of an Arrow stream file as dictionaries: lists become arrays [T], numbers stay plain.

    lengths: tokens of each row [rows].
    """

    def __init__(self, path: Path):
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_stream(source).read_all()
        self._batches = table.to_batches()
        self._firsts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self.columns: list[str] = table.column_names
        ids = table.column("input_ids").chunks
        self.lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in ids]) if ids else np.empty(0, int)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = int(number)
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        batch = self._batches[place]
        offset = number - int(self._firsts[place])
        return {name: _value(batch.column(i)[offset]) for i, name in enumerate(self.columns)}


def _value(scalar: Any) -> Any:
    values = getattr(scalar, "values", None)
    return scalar.as_py() if values is None else values.to_numpy(zero_copy_only=False)
