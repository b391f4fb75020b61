"""Which neurons an MLP can spare, and how the others make up for them. Mathematics only.

An MLP writes Σ_j h_j d_j. Where neurons S are given away for something else, Σ_S h_j d_j is missing
everywhere. Most of it is known from the others: with h_S ≈ C h_R by least squares over what is read,
D_S C added to the others' D_R writes what those would have written. So those neurons are given away
whose own writing is least once the others have made up for them, one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Of its own mean square, what is added to a neuron's, for not all may be there to be told apart. Of all
# neurons' mean it would be that of the few that say most, and hide what is known of the others.
_RIDGE = 0.1


def spare(directions: Tensor, moment: Tensor, gone: Tensor, count: int) -> Tensor:
    """Choose neurons to give away.

    Args:
        directions: what each neuron writes, D, shape (out, m), float64.
        moment: E h hᵀ over what is read, all neurons there, shape (m, m), float64.
        gone: which were given away before, shape (m,), bool.
        count: how many more are wanted.

    Returns:
        Their indices, shape (count,): the one that is missed least first.

    Raises:
        ValueError: if there are not so many.
    """
    rest = (~gone).nonzero().flatten()
    if count > len(rest):
        raise ValueError(f"{count} of {len(rest)} neurons cannot be given away")
    among = _ridged(moment)[rest][:, rest]
    others = torch.linalg.inv(among)
    writes = directions[:, rest].clone()
    if len(rest) < len(gone):
        writes += directions[:, gone] @ moment[gone][:, rest] @ others
    chosen: list[int] = []
    for _ in range(count):
        # 1 / (G⁻¹)_jj is what the others do not know of h_j.
        missed = writes.square().sum(0) / others.diagonal()
        missed[chosen] = torch.inf
        j = int(missed.argmin())
        chosen.append(j)
        knows = -others[:, j] / others[j, j]
        knows[chosen] = 0.0
        writes += writes[:, [j]] * knows
        # What the others know of each other without it: its row and column are taken out.
        others = others - others[:, [j]] * others[[j]] / others[j, j]
        others[:, j] = others[j] = 0.0
        others[j, j] = 1.0
    return rest[torch.tensor(chosen, dtype=torch.long, device=rest.device)]


def make_up(directions: Tensor, moment: Tensor, gone: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """What the others must write besides so that little is missing.

    By reduced-rank regression (Izenman 1975): of D_S C, what it writes in the directions in which it
    writes most.

    Args:
        directions: what each neuron writes, shape (out, m), float64.
        moment: E h hᵀ over what is read, all neurons there, shape (m, m), float64.
        gone: which are given away, shape (m,), bool.
        rank: at most of what is added.

    Returns:
        Two factors, shapes (out, k) and (k, m), k ≤ rank; the second is 0 at those that are gone.
    """
    rest, count = ~gone, int(gone.sum())
    among = _ridged(moment)[rest][:, rest]
    known = torch.linalg.solve(among, moment[rest][:, gone]).T
    left = directions[:, gone]
    if rank < count:
        written = left @ known
        _, found = torch.linalg.eigh(written @ among @ written.T)
        left = found[:, len(found) - min(rank, len(found)) :]
        known = left.T @ written
    right = moment.new_zeros(left.shape[1], len(gone))
    right[:, rest] = known
    return left, right


def _ridged(moment: Tensor) -> Tensor:
    squares = moment.diagonal()
    least = 1e-9 * squares.mean().clamp_min(1e-12)
    return moment + torch.diag(_RIDGE * squares.clamp_min(least))
