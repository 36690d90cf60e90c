from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from lora_ns.data.batch_sampler import RunBatches, Share, epoch_batches, order_digest

LENGTHS = np.random.RandomState(0).lognormal(4, 0.6, 1003).astype(int) + 2


def batches(seed: int = 0, epoch: int = 0, strategy: str = "group_by_length") -> list[list[int]]:
    made = epoch_batches(LENGTHS, 8, seed=seed, epoch=epoch, strategy=strategy)
    return [batch.tolist() for batch in made]


@pytest.mark.parametrize("strategy", ["group_by_length", "random", "sequential"])
def test_an_epoch_has_every_row_once_and_the_short_batch_last(strategy: str) -> None:
    made = batches(strategy=strategy)
    assert sorted(chain(*made)) == list(range(1003))
    assert {len(batch) for batch in made[:-1]} == {8} and len(made[-1]) == 3


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_the_order_hangs_on_seed_and_epoch_alone(strategy: str) -> None:
    first = batches(strategy=strategy)
    assert batches(strategy=strategy) == first
    assert batches(seed=1, strategy=strategy) != first != batches(epoch=1, strategy=strategy)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert order_digest(epoch_batches(LENGTHS, 8, seed=3, epoch=1, strategy="group_by_length")) == (
        "964b30c7d8faba7e3f45566ec34815560fb0fe12b1e3b4690bae10e06c7ac46c"
    )


def padding(made: list[list[int]]) -> float:
    """Share of a padded batch that is padding."""
    padded = sum(max(LENGTHS[batch]) * len(batch) for batch in made)
    return 1 - LENGTHS.sum() / padded


def test_rows_of_like_length_share_a_batch_but_batches_come_in_any_order() -> None:
    grouped, shuffled = batches(), batches(strategy="random")
    assert padding(grouped) < 0.1 < 0.3 < padding(shuffled)
    longest = [int(max(LENGTHS[batch])) for batch in grouped[:-1]]
    neighbours = np.corrcoef(longest[:-1], longest[1:])[0, 1]
    assert abs(neighbours) < 0.3


@pytest.mark.parametrize(("size", "processes"), [(8, 1), (2, 1), (4, 2), (1, 4), (3, 2)])
def test_shares_make_up_the_batch_whatever_their_number(size: int, processes: int) -> None:
    ranks = [
        RunBatches(LENGTHS, 8, Share(size, processes, rank), seed=5, strategy="group_by_length") for rank in range(processes)
    ]
    shares = [list(rank) for rank in ranks]
    assert {len(of_rank) for of_rank in shares} == {len(ranks[0])}, "every process takes as many shares"
    a_batch = -(-8 // (size * processes))
    for number, batch in enumerate(ranks[0].of_epoch(0)):
        taken = [of_rank[number * a_batch : (number + 1) * a_batch] for of_rank in shares]
        assert sorted(chain(*chain(*taken))) == sorted(batch.tolist())
        assert all(len(share) <= size for of_rank in taken for share in of_rank)


def test_steps_go_over_the_edge_of_an_epoch() -> None:
    run = RunBatches(LENGTHS[:20], 8, Share(8), seed=0, strategy="random")
    taken = list(run.steps(7))
    assert [len(batch) for batch in taken] == [8, 8, 4, 8, 8, 4, 8]
    assert sorted(chain(*taken[:3])) == sorted(chain(*taken[3:6])) == list(range(20))


def test_the_longest_share_is_of_the_longest_rows() -> None:
    run = RunBatches(LENGTHS, 8, Share(4), seed=0, strategy="random")
    assert sorted(LENGTHS[run.longest()]) == sorted(LENGTHS)[-4:]
