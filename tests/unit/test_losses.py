"""The losses against numbers worked out by hand."""

import math

import pytest
import torch

from corsa.losses import dpo_loss, keep_loss, sft_loss


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_sft_is_the_mean_of_the_answer_tokens():
    # −(−1 − 2 − 6) / 3
    assert sft_loss(t(-1, -2, -6), 3).item() == 3.0


def test_sft_of_the_parts_adds_up_to_sft_of_the_whole():
    # Means of parts would be 1.5 and 6, and their mean 3.75.
    parts = sft_loss(t(-1, -2), 3) + sft_loss(t(-6), 3)
    assert parts.item() == sft_loss(t(-1, -2, -6), 3).item() == 3.0


def test_keeping_is_the_weighted_mean_of_the_divergences():
    # Weights 3 and 1: (3 · 0.2 + 1 · 0.6) / 4
    assert keep_loss(t(3 * 0.2, 0.6), 4).item() == pytest.approx(0.3)


def test_dpo_is_log_two_where_the_model_is_its_reference():
    loss = dpo_loss(t(-3), t(-1), t(-3), t(-1), beta=0.7, count=1)
    assert loss.item() == pytest.approx(math.log(2))


def test_dpo_worked_by_hand():
    # moved: (−1 − −3) − (−4 − −5) = 1;  (−2 − −2) − (−1 − −3) = −2
    loss = dpo_loss(t(-1, -2), t(-4, -1), t(-3, -2), t(-5, -3), beta=0.5, count=2)
    by_hand = (math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(1.0))) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)


def test_dpo_falls_as_the_new_answer_gains_and_the_old_one_loses():
    start = [t(-3.0), t(-1.0), t(-3.0), t(-1.0)]
    leaves = [value.requires_grad_() for value in start[:2]]
    dpo_loss(*start, beta=0.5, count=1).backward()
    # d/dm −log σ(βm) = −β σ(−βm) = −0.25 at m = 0
    assert leaves[0].grad.item() == pytest.approx(-0.25)
    assert leaves[1].grad.item() == pytest.approx(+0.25)


def test_dpo_divides_by_the_pairs_of_the_whole_batch():
    one = dpo_loss(t(-1), t(-4), t(-3), t(-5), beta=0.5, count=4)
    other = dpo_loss(t(-2), t(-1), t(-2), t(-3), beta=0.5, count=4)
    both = dpo_loss(t(-1, -2), t(-4, -1), t(-3, -2), t(-5, -3), beta=0.5, count=4)
    assert (one + other).item() == pytest.approx(both.item(), rel=1e-12)


@pytest.mark.parametrize("moved", [-1e4, 1e4])
def test_dpo_stays_finite_far_from_the_reference(moved):
    chosen = t(moved).requires_grad_()
    loss = dpo_loss(chosen, t(0), t(0), t(0), beta=1.0, count=1)
    loss.backward()
    assert loss.item() == pytest.approx(max(0.0, -moved))
    assert math.isfinite(chosen.grad.item())
