"""pass@k by hand."""

import itertools

import pytest

from corsa.bench.code.passing import averages, pass_at_k, task_scores
from corsa.bench.code.testing import Verdict
from corsa.errors import UsageError


@pytest.mark.parametrize(
    ("samples", "right", "k", "expected"),
    [
        (5, 0, 1, 0),
        (5, 0, 5, 0),  # the form without a check gives 1 for k = 10
        (5, 1, 1, 1 / 5),
        (5, 1, 5, 1),
        (5, 2, 2, 1 - 3 / 10),
        (5, 4, 2, 1),
        (10, 3, 5, 1 - 21 / 252),
    ],
)
def test_it_is_the_share_of_draws_that_hold_a_right_one(samples, right, k, expected):
    assert pass_at_k(samples, right, k) == pytest.approx(expected)
    draws = list(itertools.combinations(range(samples), k))
    assert pass_at_k(samples, right, k) == pytest.approx(
        sum(any(place < right for place in draw) for draw in draws) / len(draws)
    )


@pytest.mark.parametrize(("samples", "right", "k"), [(5, 0, 10), (5, 6, 1), (5, -1, 1), (5, 1, 0)])
def test_what_it_cannot_tell_is_refused(samples, right, k):
    with pytest.raises(UsageError):
        pass_at_k(samples, right, k)


def test_k_is_never_more_than_the_samples():
    three = task_scores([Verdict((True,), old=False)] * 3)
    assert [name for name in three if name.startswith("upass")] == ["upass@1", "upass@2"]


def test_a_solution_that_passes_either_way_is_none_by_the_update():
    scores = task_scores([Verdict((True, True), old=True)])
    assert (scores["upass@1"], scores["pass@1_new"], scores["pass@1_old"]) == (0, 1, 1)


def test_means_over_tasks_leave_no_name_out():
    assert averages([{"a": 1.0}, {"a": 0.0, "b": 0.5}]) == {"a": 0.5, "b": 0.5}
    assert averages([]) == {}
