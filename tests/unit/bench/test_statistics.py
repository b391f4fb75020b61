"""Against hand-worked numbers, and against scipy where a hand would not do."""

import numpy as np
import pytest
from scipy import stats

from corsa.bench.statistics import Estimate, compare, estimate, over_edits


def test_the_mean_and_the_interval_of_equal_numbers_are_that_number():
    assert estimate([0.5, 0.5, 0.5]) == Estimate(0.5, 0.5, 0.5, (0.5, 0.5, 0.5))


def test_one_seed_has_no_interval_and_none_has_nothing():
    assert estimate([0.25]) == Estimate(0.25, None, None, (0.25,))
    assert estimate([None, 0.25]) == Estimate(0.25, None, None, (None, 0.25))
    assert estimate([None, None]) == Estimate(None, None, None, (None, None))
    assert estimate([]) == Estimate(None, None, None, ())


def test_of_two_seeds_the_interval_is_their_range():
    # Three of the four equally likely resamples' means are below the higher number, one is below the
    # middle: the 2.5 % and 97.5 % points are the two numbers.
    assert estimate([0.2, 0.6]) == Estimate(0.4, 0.2, 0.6, (0.2, 0.6))


def test_the_interval_is_scipys_percentile_bootstrap():
    values = [0.1, 0.9, 0.4, 0.7, 0.3]
    found = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    got = estimate(values)
    assert (got.low, got.high) == pytest.approx((found.low, found.high), abs=1e-6)
    assert got.low < got.mean == 0.48 < got.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = [e.low <= 0 <= e.high for e in map(estimate, random.normal(size=(60, 20)).tolist())]
    assert 0.85 <= np.mean(hits) <= 1


def test_of_one_seed_the_interval_is_over_its_edits():
    edits = [1.0, 0.0, None, 0.5, 1.0, 1.0]
    found = over_edits(0.7, edits)
    there = estimate([e for e in edits if e is not None])
    assert (found.mean, found.per_seed) == (0.7, (0.7,))
    assert (found.low, found.high) == (there.low, there.high)
    assert found.low < 0.7 < found.high


def test_a_number_that_is_no_mean_over_edits_has_no_interval_over_them():
    # Of what is kept, an edit with three known neighbours counts three times.
    assert over_edits(0.75, [1.0, 0.0]) == Estimate(0.75, None, None, (0.75,))
    assert over_edits(None, [1.0]) == Estimate(None, None, None, (None,))
    assert over_edits(0.5, [None]) == Estimate(0.5, None, None, (0.5,))


def test_the_permutation_test_is_exact_for_few_edits():
    # Three pairs, all in one direction: 2 of 2³ sign patterns are as extreme, p = 2/8.
    found = compare({1: 1.0, 2: 0.9, 3: 1.0}, {1: 0.0, 2: 0.5, 3: 0.0})
    assert found.p == 0.25
    assert found.mean == pytest.approx(0.8)
    assert found.n == 3


def test_only_edits_that_both_have_are_compared():
    found = compare({1: 1.0, 4: 1.0}, {1: 0.0, 2: 1.0, 5: 0.0})
    assert (found.n, found.mean, found.low, found.p) == (1, 1.0, None, 1.0)
    assert compare({1: 1.0}, {2: 1.0}) is None


def test_equal_methods_do_not_differ():
    same = {n: n % 2 for n in range(30)}
    assert compare(same, dict(same)) == (0.0, 0.0, 0.0, 1.0, 30)


def test_the_order_of_edits_does_not_matter_and_the_sign_is_that_of_the_first():
    one, other = dict.fromkeys(range(20), 1.0), {n: float(n % 4 == 0) for n in range(20)}
    found = compare(one, other)
    assert found == compare(dict(reversed(one.items())), other)
    assert found.mean == 0.75
    assert compare(other, one).mean == -0.75
    assert found.p == pytest.approx(2 / 2**15, abs=1e-3)  # 15 pairs differ, all one way
