"""Directions in which earlier rounds' facts live, and that no step of a later round takes.

An adapter adds s B A x to what a module says of x. It goes on saying the same of x if no step changes A
along x, nor B along A x: so a change Δ of either becomes Δ (1 − Q Qᵀ), with Q what such inputs span
(gradient projection memory: Saha et al. 2021, arXiv 2103.09762; for one layer and a step in closed form
AlphaEdit: Fang et al. 2025, arXiv 2410.02355). The tokens of many facts span nearly everything, so Q
holds the directions with most of them. B's, of as many dimensions as the rank, fill first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from corsa.chat import Exchange
from corsa.errors import ModelError, TrainingError
from corsa.models import Adapter, BaseModel
from corsa.progress import Progress

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@torch.no_grad()
def taken(
    adapter: Adapter,
    exchanges: Sequence[Exchange],
    share: float,
    progress: Progress,
    fixed: Collection[str] = (),
) -> dict[str, Tensor]:
    """The directions that some exchanges have taken.

    Args:
        adapter: as it is before the round.
        exchanges: what must stay as it is, prompts with their answers.
        share: of the squared length of what each module reads there that the directions hold, every
            token counting alike: a chat's first token is a hundred times as long as others.
        progress: told how far it is.
        fixed: full names of modules that no step changes, unless it is all of them.

    Returns:
        Q by the name of the parameter whose rows it is for, columns orthonormal: of A, shape (in, k);
        of B, shape (rank, k).

    Raises:
        ModelError: if the adapter acts on a module of no layer, or one that does not read every token.
        TrainingError: if what is read is not finite.
    """
    base, params = adapter.base, adapter.params
    layers: dict[str, list[str]] = {}
    adapted = [name.removesuffix(_DOWN) for name in params if name.endswith(_DOWN)]
    # Where every module is fixed a round trains them all (`RoundTrainer`).
    for name in [name for name in adapted if name not in fixed] or adapted:
        inside = re.match(r".*?\.\d+(?=\.)", name)
        if inside is None:
            raise ModelError(
                f"{name} is in no layer, so null_space cannot hold what it reads: say null_space=0, or "
                "let a new adapter act on layers alone, as with layers=0-0.99"
            )
        layers.setdefault(inside[0], []).append(name)
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
        for name, read in zip(names, passed.inputs, strict=True):
            if len(read) != len(passed.output):
                raise ModelError(
                    f"{name} does not read every token, so null_space cannot hold what it reads: say "
                    "null_space=0, or parts=attention for a new adapter"
                )
        rows = [row for path in passed.paths for row in path[begin:]]
        rows += passed.paths[0][:begin] if not found else []
        reads = (torch.nn.functional.normalize(x[rows].double(), dim=-1) for x in passed.inputs)
        more = [tokens.T @ tokens for tokens in reads]
        found = [a + b for a, b in zip(found, more, strict=True)] if found else more
    return found


def _largest(moment: Tensor, share: float) -> Tensor:
    """The fewest directions that hold a share of a moment's trace, as columns."""
    if not moment.isfinite().all():
        raise TrainingError(
            "what the model reads of earlier edits is not finite, so null_space has no directions: use "
            "dtype=float32, or null_space=0"
        )
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


def free(gradient: Mapping[str, Tensor], directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a gradient leads anywhere.

    The rest cannot be learned, so it never shrinks, and would decide how far AdamW goes and what is
    clipped.

    Args:
        gradient: by name.
        directions: Q by name, from `taken`.

    Returns:
        The gradient without what is taken.
    """
    return {
        name: part - part @ directions[name] @ directions[name].T if name in directions else part
        for name, part in gradient.items()
    }
