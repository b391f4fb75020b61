"""Neurons that are given away, and what the others write instead, against least squares by numpy."""

import numpy as np
import pytest
import torch

from corsa.sparing import make_up, spare

RNG = np.random.default_rng(3)
# Neurons that know of each other: 40 readings of 12, of which three are nearly mixtures of others.
SAID = RNG.normal(size=(400, 12)) * RNG.uniform(0.2, 2, 12)
SAID[:, 9:] = 0.15 * SAID[:, :9] @ RNG.normal(size=(9, 3)) + 0.01 * RNG.normal(size=(400, 3))
WRITES = RNG.normal(size=(7, 12))
MOMENT = torch.from_numpy(SAID.T @ SAID / len(SAID))
RIDGE = 0.1 * np.diag(MOMENT)


def ridged(which):
    """Readings of some neurons, with rows that stand for the ridge."""
    return np.concatenate([SAID, np.diag(np.sqrt(len(SAID) * RIDGE))])[:, which]


def known(gone):
    """What the others know of some neurons: those that are left, and least squares over them."""
    rest = [j for j in range(12) if j not in gone]
    return rest, np.linalg.lstsq(ridged(rest), ridged(gone), rcond=None)[0]


def mask(which):
    found = torch.zeros(12, dtype=torch.bool)
    found[which] = True
    return found


@pytest.mark.parametrize("before", [[], [2, 10]])
def test_the_least_missed_go_one_after_the_other(before):
    gone, wanted = list(before), []
    for _ in range(4):
        left = [j for j in range(12) if j not in gone]
        # What one more leaves missing once all others make up for all that are gone.
        wanted.append(min(left, key=lambda j: added(gone, j)))
        gone.append(wanted[-1])
    found = spare(torch.from_numpy(WRITES), MOMENT, mask(before), 4)
    assert found.tolist() == wanted
    # A neuron that others know is given away before one that says less.
    says = np.diag(MOMENT) * (WRITES**2).sum(0)
    assert wanted != [j for j in np.argsort(says).tolist() if j not in before][:4]


def added(gone, j):
    """What no other neuron knows of what j writes, and of what it writes for those that are gone."""
    rest, theirs = known(gone)
    made = WRITES[:, rest] + WRITES[:, gone] @ theirs.T
    others = [k for k in rest if k != j]
    its = np.linalg.lstsq(ridged(others), ridged([j]), rcond=None)[0]
    unknown = ((ridged([j]) - ridged(others) @ its) ** 2).sum()
    return float(unknown * (made[:, rest.index(j)] ** 2).sum())


def test_one_that_says_a_thousand_times_as_much_hides_nothing():
    """A few such neurons are in every large model."""
    alone = torch.zeros(13, 13, dtype=torch.float64)
    alone[:12, :12] = MOMENT
    alone[12, 12] = 1e6 * MOMENT.diagonal().mean()
    writes = torch.from_numpy(np.concatenate([WRITES, np.ones((7, 1))], axis=1))
    found = spare(writes, alone, torch.zeros(13, dtype=torch.bool), 4)
    assert found.tolist() == spare(writes[:, :12], MOMENT, mask([]), 4).tolist()


def test_no_more_than_there_are():
    with pytest.raises(ValueError, match="3 of 2 neurons"):
        spare(torch.from_numpy(WRITES), MOMENT, mask(range(10)), 3)


def test_the_others_write_what_they_know():
    gone = [1, 9, 11]
    left, right = make_up(torch.from_numpy(WRITES), MOMENT, mask(gone), 3)
    rest, theirs = known(gone)
    wanted = WRITES[:, gone] @ theirs.T
    assert (left @ right)[:, rest].numpy() == pytest.approx(wanted, abs=1e-9)
    assert not right[:, gone].any()


def test_of_a_lower_rank_it_is_the_best():
    gone, rank = [0, 4, 9, 11], 2
    left, right = make_up(torch.from_numpy(WRITES), MOMENT, mask(gone), rank)
    assert left.shape == (7, rank)
    rest, theirs = known(gone)
    written = ridged(rest) @ theirs @ WRITES[:, gone].T
    values = np.linalg.svd(written)[1]
    found = ridged(rest) @ (left @ right)[:, rest].numpy().T
    assert ((written - found) ** 2).sum() == pytest.approx((values[rank:] ** 2).sum(), rel=1e-6)
    nothing, none = make_up(torch.from_numpy(WRITES), MOMENT, mask(gone), 0)
    assert not (nothing @ none).any()
