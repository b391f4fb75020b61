"""Directions in which earlier rounds' facts live, and that no step of a later round takes.

An adapter adds s B A x to what a module says of x. It goes on saying the same of x if no step changes A
along x, nor B along A x: so a step Δ of either becomes Δ (1 − Q Qᵀ), with Q what such inputs span
(gradient projection memory: Saha et al. 2021, arXiv 2103.09762; for one layer and a step in closed form
AlphaEdit: Fang et al. 2025, arXiv 2410.02355). The tokens of many facts span nearly everything, so Q
holds the directions with most of them: what it leaves out is free, and what it holds is rank that a
round has not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from corsa.chat import Exchange
from corsa.models import Adapter, BaseModel
from corsa.progress import Progress

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@torch.no_grad()
def taken(
    adapter: Adapter, exchanges: Sequence[Exchange], share: float, progress: Progress
) -> dict[str, Tensor]:
    """The directions that some exchanges have taken.

    Args:
        adapter: as it is before the round.
        exchanges: what must stay as it is, prompts with their answers.
        share: of the squared length of what each module reads there that the directions hold, every
            token counting alike: a chat's first token is a hundred times as long as others.
        progress: told how far it is.

    Returns:
        Q by the name of the parameter whose rows it is for, columns orthonormal: of A, shape (in, k);
        of B, shape (rank, k).
    """
    base, params = adapter.base, adapter.params
    layers: dict[str, list[str]] = {}
    for name in params:
        if found := re.match(rf"((.*?\.\d+)\..*){re.escape(_DOWN)}$", name):
            layers.setdefault(found[2], []).append(found[1])
    # What all prompts begin with counts once, whether they are packed or not.
    columns = zip(*(exchange.prompt for exchange in exchanges), strict=False)
    begin = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    directions: dict[str, Tensor] = {}
    progress.begin("looking for directions of earlier edits", len(layers))
    # Layer by layer: second moments of all modules of a large model would not fit.
    for layer, names in layers.items():
        with base.using(adapter.name):
            moments = _moments(base, layer, names, exchanges, begin)
        for name, moment in zip(names, moments, strict=True):
            down, up = params[f"{name}{_DOWN}"], params[f"{name}{_UP}"]
            mixed = down.double() @ moment @ down.T.double()
            directions[f"{name}{_DOWN}"] = _largest(moment, share).to(down)
            directions[f"{name}{_UP}"] = _largest(mixed, share).to(up)
        progress.advance()
    return directions


def _moments(
    base: BaseModel, layer: str, names: Sequence[str], exchanges: Sequence[Exchange], begin: int
) -> list[Tensor]:
    """Second moments of what some modules of a layer read, tokens at unit length, float64."""
    modules, whole = [base.hf.get_submodule(name) for name in names], base.hf.get_submodule(layer)
    found: list[Tensor] = []
    for passed in base.forward.passing(exchanges, modules, whole):
        rows = [row for path in passed.paths for row in path[begin:]]
        rows += passed.paths[0][:begin] if not found else []
        read = (torch.nn.functional.normalize(x[rows].double(), dim=-1) for x in passed.inputs)
        more = [tokens.T @ tokens for tokens in read]
        found = [a + b for a, b in zip(found, more, strict=True)] if found else more
    return found


def _largest(moment: Tensor, share: float) -> Tensor:
    """The fewest directions that hold a share of a moment's trace, as columns."""
    values, vectors = torch.linalg.eigh(moment)  # ascending
    held = values.clamp_min(0).flip(0).cumsum(0)
    count = int((held < share * held[-1]).sum()) + 1
    largest: Tensor = vectors.flip(1)[:, :count]
    return largest


@torch.no_grad()
def give_back(
    params: Mapping[str, Tensor], before: Mapping[str, Tensor], directions: Mapping[str, Tensor]
) -> None:
    """Undo what a step changed in directions that are taken.

    Args:
        params: after the step, by name; changed in place.
        before: the same before it; only those with directions are looked at.
        directions: Q by name, from `taken`.
    """
    for name, basis in directions.items():
        if name in params:
            params[name].sub_((params[name] - before[name]) @ basis @ basis.T)
