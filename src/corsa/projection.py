"""How the gradients of several losses become one update: from their Gramian to weights.

With gradients as the rows of J, shape (K, P), every surgery here is `update = w @ J` with w a
function of G = J Jᵀ alone. The big gradients are touched twice: for K² inner products, and for the
weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Projection = Literal["none", "pcgrad", "one-sided"]
PROJECTIONS: tuple[str, ...] = get_args(Projection)


def gramian(gradients: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Inner products of gradients that are dicts by parameter name.

    Args:
        gradients: K dicts with the same keys; entries of one key have one shape.

    Returns:
        G of shape (K, K), float64: sums over millions of products decide on a sign.
    """
    products = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for name in gradients[0]:
        rows = [gradient[name].flatten().double() for gradient in gradients]
        products += torch.stack([torch.stack([a @ b for b in rows]) for a in rows]).cpu()
    return products


def sum_weights(gramian: Tensor) -> Tensor:
    """No surgery: the gradients are added.

    Args:
        gramian: G of shape (K, K).

    Returns:
        Ones of shape (K,).
    """
    return torch.ones(len(gramian), dtype=gramian.dtype)


def pcgrad_weights(gramian: Tensor) -> Tensor:
    """Published PCGrad (Yu et al. 2020, algorithm 1), summed: what opposes is projected out.

    Every gradient is projected against the *original* others in turn. The paper shuffles the others;
    here they come in their order, so that runs repeat. With two losses there is only one order, and
    the result opposes neither.

    Args:
        gramian: G of shape (K, K).

    Returns:
        Weights of shape (K,).
    """
    return _project_in_turn(gramian, against_projected=False).sum(0)


def one_sided_weights(gramian: Tensor) -> Tensor:
    """The projection of the authors' code, for reproduction: later projections see earlier ones.

    The last gradient is projected first, against the others as they are; those then meet it already
    projected, which makes their own projection void. With rows (SFT, DPO) only DPO is ever bent, and
    the result can still oppose it. The mean is taken, so the step is also half as long.

    Args:
        gramian: G of shape (K, K).

    Returns:
        Weights of shape (K,).
    """
    return _project_in_turn(gramian, against_projected=True).mean(0)


def _project_in_turn(gramian: Tensor, *, against_projected: bool) -> Tensor:
    """Row i holds gradient i after its projections, as coefficients of the original gradients."""
    count = len(gramian)
    rows = torch.eye(count, dtype=gramian.dtype)
    others = rows if against_projected else rows.clone()
    for i in reversed(range(count)):
        for j in range(count):
            product = rows[i] @ gramian @ others[j]
            length = others[j] @ gramian @ others[j]
            if i != j and product < 0 and length > 0:
                rows[i] = rows[i] - product / length * others[j]
    return rows


WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": sum_weights,
    "pcgrad": pcgrad_weights,
    "one-sided": one_sided_weights,
}


def merge(gradients: Sequence[Mapping[str, Tensor]], projection: str) -> dict[str, Tensor]:
    """One update from the gradients of K losses.

    Args:
        gradients: K dicts by parameter name, in the order (SFT, DPO).
        projection: a key of `WEIGHTS`.

    Returns:
        The update `w @ J`, by parameter name. A single gradient comes back as it is.
    """
    if len(gradients) == 1:
        return dict(gradients[0])
    weights = WEIGHTS[projection](gramian(gradients)).tolist()
    return {
        name: sum(
            (w * gradient[name] for w, gradient in zip(weights[1:], gradients[1:], strict=True)),
            start=weights[0] * gradients[0][name],
        )
        for name in gradients[0]
    }
