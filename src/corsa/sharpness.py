"""Sharpness-aware minimisation (Foret et al. 2021): look at the loss a step uphill, then come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def global_norm(gradient: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all entries of all tensors.

    Args:
        gradient: tensors by parameter name.

    Returns:
        ‖g‖, accumulated in float64.
    """
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradient.values()]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


@contextmanager
def perturbed(
    params: Mapping[str, Tensor], direction: Mapping[str, Tensor], rho: float
) -> Iterator[None]:
    """Inside the block the parameters stand at φ + ρ g/‖g‖; after it at φ, bit for bit.

    The values are copied and copied back: subtracting what was added would leave rounding drift, and
    an exception in between would leave the weights moved. A zero direction does not move them.

    Args:
        params: the parameters φ to move, by name; nothing else is touched.
        direction: g, with a tensor for every name in `params`.
        rho: length of the step, in units of the parameters.

    Yields:
        Nothing; the parameters are moved in place.
    """
    saved = {name: param.detach().clone() for name, param in params.items()}
    norm = global_norm(direction)
    try:
        if norm > 0:
            with torch.no_grad():
                for name, param in params.items():
                    param.add_(direction[name], alpha=rho / norm)
        yield
    finally:
        with torch.no_grad():
            for name, param in params.items():
                param.copy_(saved[name])
