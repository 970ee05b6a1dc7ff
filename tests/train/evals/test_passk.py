"""pass@k against counting by hand, and what its intervals must do."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from dail.train.evals.passk import bootstrap, ks, pass_at_k


def by_counting(num_samples: int, num_correct: int, k: int) -> Fraction:
    """The share of all k-subsets that hold a correct one."""
    subsets = list(combinations([True] * num_correct + [False] * (num_samples - num_correct), k))
    return Fraction(sum(map(any, subsets)), len(subsets))


def test_it_equals_counting_all_subsets() -> None:
    for num_samples in range(1, 9):
        for num_correct in range(num_samples + 1):
            for k in range(1, num_samples + 1):
                wanted = float(by_counting(num_samples, num_correct, k))
                assert pass_at_k(num_samples, num_correct, k) == pytest.approx(wanted, abs=1e-14)


def test_it_is_exact_where_binomials_have_hundreds_of_digits() -> None:
    from math import comb

    for num_correct in (1, 7, 500, 2000):
        for k in (1, 64, 2048):
            wanted = 1 - Fraction(comb(4096 - num_correct, k), comb(4096, k))
            assert pass_at_k(4096, num_correct, k) == pytest.approx(float(wanted), rel=1e-11)


@pytest.mark.parametrize(("num_samples", "num_correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_counts_that_cannot_be_are_refused(num_samples: int, num_correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="wanted 0 <= c <= n"):
        pass_at_k(num_samples, num_correct, k)


@pytest.mark.parametrize(("num_samples", "wanted"), [(1, [1]), (3, [1, 2]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8])])
def test_k_doubles_up_to_the_number_of_samples(num_samples: int, wanted: list[int]) -> None:
    assert ks(num_samples) == wanted


def test_the_interval_holds_the_true_mean_in_about_95_of_100_draws() -> None:
    rng = np.random.default_rng(1)
    num_hits = 0
    for trial in range(300):
        interval = bootstrap(rng.beta(1, 3, size=60).tolist(), seed=trial)
        num_hits += interval.low <= 0.25 <= interval.high
    assert 0.89 <= num_hits / 300 <= 0.985


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50).tolist()
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_one_problem_says_nothing_about_others() -> None:
    assert (bootstrap([0.5], 0).low, bootstrap([0.5], 0).high) == (0.0, 1.0)
    assert bootstrap([0.5], 0, least=-1.0).low == -1.0


@pytest.mark.parametrize(
    ("values", "least", "low", "high"),
    [
        ([0.0] * 24, 0.0, 0.0, 0.1425),  # Clopper and Pearson's, of 0 of 24
        ([1.0] * 24, 0.0, 0.8575, 1.0),
        ([0.0] * 500, 0.0, 0.0, 0.0074),
        ([0.5] * 24, 0.0, 0.5 - 0.1425 / 2, 0.5 + 0.1425 / 2),
        ([0.0] * 24, -1.0, -0.1425, 0.1425),
        ([-1.0] * 24, -1.0, -1.0, -1.0 + 2 * 0.1425),
    ],
)
def test_problems_that_all_have_the_same_leave_doubt_about_others(
    values: list[float], least: float, low: float, high: float
) -> None:
    interval = bootstrap(values, 0, least)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize("count", [2, 7, 24, 300])
def test_shares_of_solved_problems_have_the_exact_interval(count: int) -> None:
    from scipy.stats import binomtest

    for solved in {0, 1, count // 2, count - 1, count}:
        wanted = binomtest(solved, count).proportion_ci(0.95, "exact")
        interval = bootstrap([1.0] * solved + [0.0] * (count - solved), 0)
        assert (interval.low, interval.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))


def test_no_interval_is_without_width_and_more_solved_problems_move_it_up() -> None:
    for least in (0.0, -1.0):
        for value in (0.1, 1 / 3, 0.7):
            interval = bootstrap([value, value + 1e-16] * 9, 1, least)
            assert interval.low < interval.mean < interval.high
    found = [bootstrap([1.0] * solved + [0.0] * (24 - solved), 0) for solved in range(25)]
    assert [one.high for one in found] == sorted(one.high for one in found)
    assert [one.low for one in found] == sorted(one.low for one in found)


def test_the_interval_of_rare_successes_holds_the_true_mean() -> None:
    rng = np.random.default_rng(2)
    num_hits = 0
    for trial in range(300):
        interval = bootstrap((rng.random(24) < 0.02).astype(float).tolist(), seed=trial)
        num_hits += interval.low <= 0.02 <= interval.high
    assert num_hits / 300 >= 0.93  # of the plain bootstrap 38 %: it misses whenever none succeeded
