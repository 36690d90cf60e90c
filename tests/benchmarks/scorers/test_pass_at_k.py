import math
import random

import pytest

from lora_ns.benchmarks.scorers.pass_at_k import pass_at_k
from lora_ns.errors import ConfigError


def test_equals_the_closed_form_for_every_n_to_40():
    for n in range(1, 41):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_stays_exact_where_binomials_overflow_a_float():
    n, c, k = 5000, 3, 1000
    closed = 1 - (math.comb(n - c, k) * 10**30 // math.comb(n, k)) / 10**30
    assert pass_at_k(n, c, k) == pytest.approx(closed, abs=1e-12)


def test_is_the_share_of_draws_that_hold_a_passing_sample():
    rng = random.Random(0)
    samples = [True] * 3 + [False] * 7
    draws = 20_000
    hits = sum(any(rng.sample(samples, 4)) for _ in range(draws))
    expected = pass_at_k(10, 3, 4)
    assert abs(hits / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_is_unbiased_over_samples_of_a_problem():
    rng = random.Random(1)
    p, n, k, trials = 0.2, 8, 3, 20_000
    mean = sum(pass_at_k(n, sum(rng.random() < p for _ in range(n)), k) for _ in range(trials)) / trials
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=0.01)


def test_edges():
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(1, 0, 1) == 0.0
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert pass_at_k(10, 7, 4) == 1.0


@pytest.mark.parametrize("k", [0, -1, 11])
def test_a_k_that_the_samples_cannot_answer_is_the_users_mistake(k):
    with pytest.raises(ConfigError, match="10 were drawn"):
        pass_at_k(10, 3, k)


@pytest.mark.parametrize("c", [-1, 11])
def test_more_passes_than_samples_is_a_defect(c):
    with pytest.raises(ValueError, match="of 10 samples"):
        pass_at_k(10, c, 1)
