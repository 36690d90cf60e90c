"""The order of a run's global batches, which does not depend on the number of processes.

    epoch    all rows once, in an order that depends on seed and epoch
    batch    global_batch_size rows, one optimiser step; rows of similar length together, to save padding
    share    the rows of a batch in one forward pass of one process

A batch is formed before it is split among processes, so a laptop and sixteen GPUs take the same optimiser steps.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POOL_BATCHES = 50
"""Shuffled rows are sorted by length within pools of this many batches.  This saves nearly all padding and still mixes
the rows of a batch."""

Rows = NDArray[np.int64]


def epoch_batches(lengths: NDArray[np.integer], batch_size: int, *, seed: int, epoch: int, strategy: str) -> list[Rows]:
    """The global batches of one epoch as row numbers, longest row first in each.  The last batch may be smaller.

    lengths: tokens of each row.  strategy: group_by_length, random or sequential (transformers' train_sampling_strategy).
    """
    count = len(lengths)
    order = np.arange(count)
    if strategy == "sequential":
        return [_longest_first(order[i : i + batch_size], lengths) for i in range(0, count, batch_size)]
    rng = np.random.RandomState([seed, epoch])  # numpy's only generator with a frozen stream
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
    """The part of each batch that one process takes.  size: rows per forward pass.  Every process takes equally many shares."""

    size: int
    processes: int = 1
    rank: int = 0

    def of(self, batch: Rows) -> Iterator[Rows]:
        """Yield the process's shares of a batch, one per forward pass.  The last may be short or empty."""
        at_once = self.size * self.processes
        for start in range(0, len(batch), at_once):
            yield batch[start : start + at_once][self.rank :: self.processes]


def count_shares(rows: int, batch_size: int, at_once: int) -> int:
    """The number of shares in an epoch.  No share spans two batches."""
    whole, rest = divmod(rows, batch_size)
    return whole * -(-batch_size // at_once) + -(-rest // at_once)


class RunBatches:
    """A batch sampler for torch's DataLoader: yields the shares of one process.

    `epoch` is the epoch of the next iteration.
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
        """Yield the first `count` global batches of the run."""
        epoch = 0
        while count > 0:
            batches = self.of_epoch(epoch)[:count]
            yield from batches
            count, epoch = count - len(batches), epoch + 1

    def longest(self) -> list[int]:
        """The largest possible share: the longest rows of the data set."""
        return np.argsort(-self.lengths, kind="stable")[: self.share.size].tolist()


def order_digest(batches: Sequence[Rows] | Iterator[Rows]) -> str:
    """The sha256 of the batches' sorted row numbers, with -1 after each batch.  Runs with the same steps share it."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(np.append(np.sort(batch), -1).astype("<i8").tobytes())
    return digest.hexdigest()
