"""Where an adapter reads: coordinates in which no direction of the inputs counts more than another.

An adapter computes B A x. The inputs x of any two texts share a few directions that hold nearly all of
their energy, and there an update of A is felt by every text. With C = E[x xᵀ] over text that should stay
as it is, an update moves a module's output by tr(ΔW C ΔWᵀ). So A is trained as A′ P with
P ∝ (C + λ tr(C)/d)^(-1/2): Adam takes its steps in A′, for which all directions are alike, and what one
subject alone has becomes as easy to read as what all text has. That is the input side of K-FAC's
preconditioning (Martens and Grosse 2015, arXiv 1503.05671, section 3), and AlphaEdit's null space
(arXiv 2410.02355) as a slope instead of an edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corsa.chat import Exchange
from corsa.company import pool_prompts
from corsa.models import Adapter, BaseModel
from corsa.variations import passing_remarks

# Positions at which a text begins: models park huge activations there, which say nothing of it.
_SINK = 4
_A = ".lora_A"
# Width up to which all directions of a module are told apart, and how many of a wider one: those of a
# model of eight billion parameters would take gigabytes.
_NARROW, _DIRECTIONS = 2048, 512
# λ: energy that every direction has at the least, as a share of the mean.
_DAMPING = 0.003
# Every so many packaged prompts, and so many passing remarks in a row.
_EVERY, _REMARKS = 3, 8


class Whitener(NamedTuple):
    """P of one module: `rest · I + V diag(scale - rest) Vᵀ`, symmetric.

    Attributes:
        directions: V, orthonormal columns, shape (d, k), where the module's inputs have their energy.
        scale: eigenvalues of P along them, shape (k,).
        rest: its eigenvalue everywhere else.
    """

    directions: Tensor
    scale: Tensor
    rest: float

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows times P.

        Args:
            rows: shape (r, d).

        Returns:
            Shape (r, d).
        """
        along = rows @ self.directions
        return self.rest * rows + (along * (self.scale - self.rest)) @ self.directions.T


def whitener(inputs: Tensor, damping: float) -> Whitener:
    """P from a sample of inputs.

    Args:
        inputs: shape (n, d).
        damping: λ, as a share of the mean energy of a direction.

    Returns:
        P, scaled so that inputs have the energy they had: tr(P C P) = tr(C).
    """
    count, width = inputs.shape
    wide = inputs.double()
    if width <= count:
        energy, directions = torch.linalg.eigh(wide.T @ wide)
    else:
        energy, left = torch.linalg.eigh(wide @ wide.T)
        directions = (wide.T @ left) / energy.clamp(min=1e-300).sqrt()
    most = len(energy) if width <= _NARROW else min(len(energy), _DIRECTIONS)
    total, energy = float(energy.sum()), energy[-most:].clamp(min=0)
    floor = damping * total / width
    beyond = max(0.0, total - float(energy.sum())) / max(1, width - most)
    scale, rest = (energy + floor) ** -0.5, (beyond + floor) ** -0.5
    left_over = beyond * (width - most) * rest**2
    norm = (total / (float((energy * scale**2).sum()) + left_over)) ** 0.5
    kind = {"dtype": inputs.dtype, "device": inputs.device}
    return Whitener(directions[:, -most:].to(**kind), (scale * norm).to(**kind), rest * norm)


def packaged_texts(base: BaseModel) -> list[Sequence[int]]:
    """Text that should stay as it is: packaged prompts in the chat template, and plain text.

    Args:
        base: whose template and tokenizer it is written in.

    Returns:
        Token ids.
    """
    remarks = passing_remarks()
    plain = [" ".join(remarks[i : i + _REMARKS]) for i in range(0, len(remarks), _REMARKS)]
    asked = [base.chat.prompt_ids(prompt) for prompt in pool_prompts()[::_EVERY]]
    return [
        *asked,
        *(base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in plain),
    ]


class Whitening:
    """The coordinates in which every A of an adapter is trained.

    Args:
        adapter: what is trained; A belongs to modules of its base model.
        texts: token ids of text that should stay as it is.
    """

    def __init__(self, adapter: Adapter, texts: Sequence[Sequence[int]]) -> None:
        self._params = {name: p for name, p in adapter.params.items() if _A in name}
        inputs = _inputs(adapter.base, {name.split(_A)[0] for name in self._params}, texts)
        self._of: dict[str, Whitener] = {}
        last: tuple[Tensor, Whitener] | None = None
        for name in self._params:
            rows = inputs.pop(name.split(_A)[0])
            # Neighbours read the same where they stand side by side, as gate and up projection do.
            if last is None or not torch.equal(last[0], rows):
                last = rows, whitener(rows, _DAMPING)
            self._of[name] = last[1]

    def begin(self) -> None:
        """Make a new adapter's random A into A′ P."""
        with torch.no_grad():
            for name, param in self._params.items():
                param.copy_(self._of[name](param))

    def gradients(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients as A′ has them, P being symmetric; those of B as they are.

        Args:
            gradients: of a loss, by parameter name.

        Returns:
            The same names and shapes.
        """
        return {
            name: self._of[name](gradient.to(self._of[name].scale.dtype))
            if name in self._of
            else gradient
            for name, gradient in gradients.items()
        }

    @contextmanager
    def turning(self, decay: float) -> Iterator[None]:
        """What an optimiser does to A inside the block, it does to A′.

        Args:
            decay: the share of A that its weight decay takes, which is the same in both.

        Yields:
            Nothing.
        """
        before = {name: p.detach() * (1 - decay) for name, p in self._params.items()}
        yield
        with torch.no_grad():
            for name, param in self._params.items():
                moved = param - before[name]
                param.copy_(before[name] + self._of[name](moved))


@torch.no_grad()
def _inputs(
    base: BaseModel, modules: set[str], texts: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """What modules of the base model read while it reads texts, shape (n, d) by name."""
    found: dict[str, list[Tensor]] = {name: [] for name in modules}

    def watched(name: str) -> Any:
        def note(_: Any, args: tuple[Tensor, ...]) -> None:
            found[name].append(args[0].detach().flatten(0, -2)[_SINK:].float())

        return note

    hooks = [
        module.register_forward_pre_hook(watched(name))
        for name, module in base.hf.named_modules()
        if name in modules
    ]
    try:
        with base.using(None):
            for text in texts:
                base.forward.logits([Exchange(tuple(text[:-1]), tuple(text[-1:]))])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}
