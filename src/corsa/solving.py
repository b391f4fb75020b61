"""An adapter in closed form: what subjects' last tokens must carry, written into output projections.

For every layer in turn, from the lowest (MEMIT: Meng et al. 2023, arXiv 2210.07229, eq. 14 and 20), the
change ΔW of its MLP's output projection is the one that minimises

    Σ ‖ΔW k − r‖²  +  Σ ‖ΔW k′‖²  +  λ E‖ΔW x‖²

over keys k (what the projection reads at the subjects' last tokens, in every wording), r that part of
what is still missing at the last layer which falls to this one, k′ the keys of earlier rounds' edits,
and x whatever the projection reads elsewhere: other subjects, other relations, replies, plain text. The
adapter becomes the best of its rank that does what it did and ΔW beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from corsa.chat import Exchange
from corsa.config import Config
from corsa.forward import Spots
from corsa.models import Adapter, BaseModel
from corsa.values import Told, passes

# A layer adds what its projection writes to the residual stream if that moves what it says by as much.
_AS_IT_IS = 0.05


class Site(NamedTuple):
    """Where an adapter is solved for.

    Attributes:
        layer: the last of the layers; values are found for what it says.
        projections: full names of the output projections, the lowest layer first.
    """

    layer: nn.Module
    projections: tuple[str, ...]


def find_site(adapter: Adapter, config: Config, probe: Exchange) -> Site | None:
    """Where an adapter can be solved for.

    Args:
        adapter: it must act on the projections.
        config: `solve_layers`.
        probe: any exchange, to see by numbers that those projections write into the residual stream.

    Returns:
        The site; `None` where the model's MLPs do not write there as they are, or there are none.
    """
    outputs = adapter.base.outputs()
    first, last = (round(share * len(outputs)) for share in config.solve_between())
    first = min(first, len(outputs) - 2)  # a share of a small model may be less than one layer
    chosen = [
        (layer, name)
        for layer, name in outputs[first : min(max(last, first + 1), len(outputs) - 1)]
        if adapter.acts_on(name)
    ]
    if not chosen or not all(_adds(adapter.base, layer, name, probe) for layer, name in chosen):
        return None
    return Site(chosen[-1][0], tuple(name for _, name in chosen))


@torch.no_grad()
def _adds(base: BaseModel, layer: nn.Module, name: str, probe: Exchange) -> bool:
    """Whether a layer says v more at a token where its projection writes v more."""
    module = base.hf.get_submodule(name)

    def said() -> Tensor:
        return next(iter(base.forward.passing([probe], [], layer))).output[-1].float()

    before = said()
    more = before.norm() * torch.nn.functional.normalize(torch.ones_like(before), dim=0)
    hook = module.register_forward_hook(lambda _, __, out: out + more.to(out.dtype))
    try:
        moved = said() - before
    finally:
        hook.remove()
    return bool((moved - more).norm() <= _AS_IT_IS * more.norm())


def write(
    adapter: Adapter,
    site: Site,
    told: Sequence[Told],
    shifts: Tensor,
    earlier: Sequence[Told],
    standing: Sequence[Sequence[Exchange]],
    config: Config,
    advance: Callable[[], None],
) -> dict[str, float]:
    """Write values into an adapter, layer by layer.

    Args:
        adapter: what is written into; it need not be acting.
        site: where.
        told: the wordings in which each value must be carried.
        shifts: what is to be added to what the last layer says, by value, shape (E, D).
        earlier: wordings of earlier edits, at whose spots nothing may change.
        standing: what else must not change, in groups that count alike.
        config: `solve_weight` is λ; and the seed.
        advance: called after every layer.

    Returns:
        `missing`: which part of the values, by length, is not there afterwards; `lost`: what the rank
        could not hold, the largest part over the layers.
    """
    base = adapter.base
    modules = [base.hf.get_submodule(name) for name in site.projections]
    generator = torch.Generator().manual_seed(config.seed)
    lost = [0.0]
    with base.using(adapter.name):
        own = [one.example.chosen for one in told]
        spots = {one.example.chosen.prompt: one.spot for one in told}
        moments = _moments(base, modules, site.layer, [*standing, own], spots)
        started = _at_spots(base, modules, site.layer, told)
        asked = shifts.float()[torch.tensor([one.value for one in told])].to(started.output)
        goal = started.output + asked
        for number, (name, moment) in enumerate(zip(site.projections, moments, strict=True)):
            now = _at_spots(base, modules, site.layer, told)
            keys, old = now.inputs[number], _at_spots(base, modules, site.layer, earlier)
            missing = (goal - now.output) / (len(modules) - number)
            weights = _by_value([one.value for one in told])
            metric = config.solve_weight * moment.double()
            if earlier:
                held = old.inputs[number].double()
                of_old = _by_value([one.value for one in earlier]).to(held)
                metric = metric + held.T @ (of_old[:, None] * held)
            change, metric = ridge(keys, missing, weights.to(keys), metric)
            lost.append(adapter.add(name, change, metric, generator))
            advance()
        left = goal - _at_spots(base, modules, site.layer, told).output
    return {"missing": float(left.norm() / asked.norm().clamp_min(1e-12)), "lost": max(lost)}


def ridge(keys: Tensor, wanted: Tensor, weights: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    """The linear map that takes keys to what is wanted of them and does least elsewhere.

    Args:
        keys: shape (n, m).
        wanted: shape (n, d).
        weights: of each key, shape (n,).
        metric: what it costs to act on other inputs, shape (m, m), float64.

    Returns:
        ΔW = argmin Σ w ‖ΔW k − r‖² + tr(ΔW M ΔWᵀ), shape (d, m), and M + Σ w k kᵀ, both float64.
    """
    keys, wanted = keys.double(), wanted.double()
    weighed = weights.double()[:, None] * keys
    # M need not be of full rank where little was seen.
    least = 1e-6 * metric.diagonal().mean().clamp_min(1e-12)
    whole = metric + keys.T @ weighed + least * torch.eye(len(metric)).to(metric)
    return torch.linalg.solve(whole, weighed.T @ wanted).T, whole


def _by_value(values: Sequence[int]) -> Tensor:
    """Weights such that each value's wordings weigh one together, shape (n,)."""
    often = Counter(values)
    return torch.tensor([1 / often[value] for value in values], dtype=torch.float64)


class _AtSpots(NamedTuple):
    """What passes at the spots: inputs by module, each (n, m), and what the layer says, (n, D)."""

    inputs: list[Tensor]
    output: Tensor


def _at_spots(
    base: BaseModel, modules: Sequence[nn.Module], layer: nn.Module, told: Sequence[Told]
) -> _AtSpots:
    parts: list[list[Tensor]] = [[] for _ in modules]
    said: list[Tensor] = []
    for passed, found in passes(base, modules, layer, told):
        rows = [path[one.place] for path, one in found]
        for part, inputs in zip(parts, passed.inputs, strict=True):
            part.append(inputs[rows].float())
        said.append(passed.output[rows].float())
    empty = torch.zeros(0)
    return _AtSpots(
        [torch.cat(part) if part else empty for part in parts],
        torch.cat(said) if said else empty,
    )


def _moments(
    base: BaseModel,
    modules: Sequence[nn.Module],
    layer: nn.Module,
    groups: Sequence[Sequence[Exchange]],
    spots: Spots,
) -> list[Tensor]:
    """Second moments of what each module reads, a sum of means over groups, each (m, m), float32.

    A token counts as often as it is read; those at the spots do not count.

    Returns:
        One for each module.
    """
    sums: list[Tensor] = []
    for group in groups:
        parts: list[Tensor] = []
        count, rest = 0.0, iter(group)
        for passed in base.forward.passing(group, modules, layer):
            often = passed.often()
            for path in passed.paths:
                if (spot := spots.get(next(rest).prompt)) is not None:
                    often[path[spot.place]] = 0
            count += float(often.sum())
            wide = [inputs.float() for inputs in passed.inputs]
            found = [inputs.T @ (often.to(inputs)[:, None] * inputs) for inputs in wide]
            parts = [a + b for a, b in zip(parts, found, strict=True)] if parts else found
        means = [part / max(count, 1.0) for part in parts]
        sums = [a + b for a, b in zip(sums, means, strict=True)] if sums else means
    return sums
