"""Intervals over seeds and tests over edits; scipy does the work.

An interval over seeds says how far the mean would move with other edits and another training run; where
there is one seed, one over its edits says how far it would with other edits, for this training run.
A paired test says whether two methods differ on the very edits both were given; it takes the runs as
they are, since edits of one run are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from corsa.metrics import Number
from corsa.optional import optional

LEVEL = 0.95
_RESAMPLES = 9999
# Numbers of finished runs are rounded to six digits.
_ROUNDING = 1e-5


class Estimate(NamedTuple):
    """A number over several seeds.

    Attributes:
        mean: over the seeds that have it.
        low: lower end of the bootstrap interval; `None` where there is one number.
        high: upper end.
        per_seed: in the order of the seeds.
    """

    mean: Number
    low: Number
    high: Number
    per_seed: tuple[Number, ...]


class Difference(NamedTuple):
    """One method minus another, over the same edits.

    Attributes:
        mean: of the differences.
        low: lower end of the bootstrap interval over edits.
        high: upper end.
        p: of the two-sided paired permutation test (signs flipped; exact where that is possible).
        n: edits that both have.
    """

    mean: float
    low: Number
    high: Number
    p: float
    n: int


def estimate(per_seed: Sequence[Number]) -> Estimate:
    """Mean and percentile bootstrap interval over seeds.

    Args:
        per_seed: one number per seed, `None` where a seed has none.

    Returns:
        The estimate; with n seeds it resamples n numbers, and n = 3 gives little more than the range.
    """
    there = np.array([value for value in per_seed if value is not None], float)
    if not there.size:
        return Estimate(None, None, None, tuple(per_seed))
    low, high = _interval(there)
    return Estimate(_digits(there.mean()), low, high, tuple(per_seed))


def over_edits(mean: Number, per_edit: Sequence[Number]) -> Estimate:
    """What one seed says, with the percentile bootstrap interval over its edits.

    Args:
        mean: the number of that seed.
        per_edit: what it is the mean of, `None` where an edit says nothing.

    Returns:
        The estimate; without an interval where the number is no mean over edits (of what is kept, an
        edit with more known neighbours counts more).
    """
    there = np.array([value for value in per_edit if value is not None], float)
    if mean is None or not there.size or abs(there.mean() - mean) > _ROUNDING:
        return estimate([mean])
    return Estimate(mean, *_interval(there), (mean,))


def compare(one: Mapping[Any, float], other: Mapping[Any, float]) -> Difference | None:
    """Whether two methods differ on the edits that both were given.

    Args:
        one: a number per edit.
        other: the same of another method.

    Returns:
        The difference; `None` where they share no edit.
    """
    # The order decides which signs are drawn.
    pairs = [(one[key], other[key]) for key in sorted(one) if key in other]
    if not pairs:
        return None
    x, y = np.array(pairs, float).T
    if len(pairs) == 1 or np.array_equal(x, y):
        p = 1.0  # one pair has only two signs; no difference has none
    else:
        p = (
            optional("scipy.stats", "bench")
            .permutation_test(
                (x, y),
                _mean_difference,
                permutation_type="samples",
                vectorized=True,
                n_resamples=_RESAMPLES,
                rng=np.random.default_rng(0),
            )
            .pvalue
        )
    low, high = _interval(x - y)
    return Difference(_digits((x - y).mean()), low, high, float(p), len(pairs))


def _mean_difference(x: Any, y: Any, axis: int) -> Any:
    return np.mean(x - y, axis=axis)


def _interval(values: Any) -> tuple[Number, Number]:
    if len(values) < 2:
        return None, None
    found = (
        optional("scipy.stats", "bench")
        .bootstrap(
            (values,),
            np.mean,
            confidence_level=LEVEL,
            n_resamples=_RESAMPLES,
            method="percentile",  # the others divide by zero where all numbers are equal
            rng=np.random.default_rng(0),
        )
        .confidence_interval
    )
    return _digits(found.low), _digits(found.high)


def _digits(value: Any) -> float:
    return round(float(value), 6)
