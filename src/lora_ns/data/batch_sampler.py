"""Which rows are learned from when: the order of a run's global batches, the same however many processes share them.

    epoch    all rows once, in an order that seed and epoch decide
    batch    global_batch_size rows, one optimiser step; rows of like length together, so that little is padding
    share    the rows of a batch that one process takes at once

A batch is made before it is shared out, so a laptop and sixteen GPUs take the same steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POOL_BATCHES = 50
"""Rows of like length are looked for among so many batches' worth of shuffled rows: enough to save nearly all padding,
few enough that a batch stays a mixture."""

Rows = NDArray[np.int64]


def epoch_batches(lengths: NDArray[np.integer], batch_size: int, *, seed: int, epoch: int, strategy: str) -> list[Rows]:
    """The global batches of one epoch: row numbers, longest first within each; a smaller one for what is left over, last.

    lengths: tokens of each row.  strategy: group_by_length, random or sequential (transformers' train_sampling_strategy).
    """
    count = len(lengths)
    order = np.arange(count)
    if strategy == "sequential":
        return [_longest_first(order[i : i + batch_size], lengths) for i in range(0, count, batch_size)]
    rng = np.random.RandomState([seed, epoch])  # the one generator of numpy whose numbers never change with its version
    order = rng.permutation(count)
    if strategy == "random":
        return [_longest_first(order[i : i + batch_size], lengths) for i in range(0, count, batch_size)]
    whole = count - count % batch_size
    pool = batch_size * max(1, min(POOL_BATCHES, count // (batch_size * 4)))
    batches: list[Rows] = []
    for start in range(0, whole, pool):
        alike = _longest_first(order[start : min(start + pool, whole)], lengths)
        batches += [alike[i : i + batch_size] for i in range(0, len(alike), batch_size)]
    batches = [batches[i] for i in rng.permutation(len(batches))]
    return [*batches, _longest_first(order[whole:], lengths)] if whole < count else batches


def _longest_first(rows: Rows, lengths: NDArray[np.integer]) -> Rows:
    return rows[np.argsort(-lengths[rows], kind="stable")]


@dataclass(frozen=True)
class Share:
    """Which part of each batch is a process's own.  size: rows at once; every process takes as many shares of a batch."""

    size: int
    processes: int = 1
    rank: int = 0

    def of(self, batch: Rows) -> Iterator[Rows]:
        """The process's shares of a batch, one a forward pass; the last may be short or empty where rows run out."""
        at_once = self.size * self.processes
        for start in range(0, len(batch), at_once):
            yield batch[start : start + at_once][self.rank :: self.processes]


def count_shares(rows: int, batch_size: int, at_once: int) -> int:
    """In how many shares an epoch's rows are taken, where each batch is by itself."""
    whole, rest = divmod(rows, batch_size)
    return whole * -(-batch_size // at_once) + -(-rest // at_once)


class RunBatches:
    """A batch sampler for torch's DataLoader: the shares of one process, epoch by epoch.

    `epoch` says which epoch the next iteration is of.
    """

    def __init__(self, lengths: NDArray[np.integer], batch_size: int, share: Share, *, seed: int, strategy: str, epoch: int = 0):
        self.lengths, self.batch_size, self.share = lengths, batch_size, share
        self.seed, self.strategy, self.epoch = seed, strategy, epoch

    def of_epoch(self, epoch: int) -> list[Rows]:
        """The global batches of an epoch."""
        return epoch_batches(self.lengths, self.batch_size, seed=self.seed, epoch=epoch, strategy=self.strategy)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.of_epoch(self.epoch):
            for rows in self.share.of(batch):
                yield rows.tolist()

    def __len__(self) -> int:
        return count_shares(len(self.lengths), self.batch_size, self.share.size * self.share.processes)

    def steps(self, count: int) -> Iterator[Rows]:
        """The first `count` global batches of the run."""
        epoch = 0
        while count > 0:
            batches = self.of_epoch(epoch)[:count]
            yield from batches
            count, epoch = count - len(batches), epoch + 1

    def longest(self) -> list[int]:
        """The share that needs the most memory: the longest rows of all."""
        return np.argsort(-self.lengths, kind="stable")[: self.share.size].tolist()


def order_digest(batches: Sequence[Rows] | Iterator[Rows]) -> str:
    """sha256 of the row numbers in their order, each batch closed by -1: equal for runs that took the same steps."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(np.append(np.sort(batch), -1).astype("<i8").tobytes())
    return digest.hexdigest()
