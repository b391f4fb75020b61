"""The oracle of the training step: slow, obvious, one sequence at a time, in float64.

Formulas as in the paper, written out in plain torch. Nothing of the library is imported here: a
judge must not import what it judges. Losses come in the order [SFT, DPO] throughout.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module, Parameter

Sequence = tuple[list[int], list[int]]  # prompt ids, answer ids


class Pair(NamedTuple):
    """What to say and what to say no longer; without ``rejected`` a plain SFT example."""

    chosen: Sequence
    rejected: Sequence | None = None


def answer_logps(model: Module, prompt_ids: list[int], answer_ids: list[int]) -> Tensor:
    """log p(answer token | all tokens before it), one number per answer token."""
    assert len(prompt_ids) > 0, "the first answer token needs something before it"
    ids = torch.tensor([[*prompt_ids, *answer_ids]])
    logits = model(input_ids=ids).logits[0]
    logps = torch.log_softmax(logits.double(), dim=-1)
    steps = [
        logps[len(prompt_ids) + index - 1, token]  # predicted one position earlier
        for index, token in enumerate(answer_ids)
    ]
    return torch.stack(steps)


def sft_loss(model: Module, pairs: list[Pair]) -> Tensor:
    """Minus the mean log-probability over all chosen answer tokens of the batch."""
    return -torch.cat([answer_logps(model, *pair.chosen) for pair in pairs]).mean()


def dpo_loss(
    model: Module, pairs: list[Pair], reference: list[tuple[float, float]], beta: float
) -> Tensor:
    """Mean over the pairs with a rejected answer of −log σ(β · (difference of log-ratios)).

    ``reference[i]`` holds the summed log-probabilities of both answers of ``pairs[i]`` under the
    reference model; it is not looked at where there is no rejected answer.
    """
    losses = []
    for pair, reference_sums in zip(pairs, reference, strict=True):
        if pair.rejected is None:
            continue
        reference_chosen, reference_rejected = reference_sums
        chosen_ratio = answer_logps(model, *pair.chosen).sum() - reference_chosen
        rejected_ratio = answer_logps(model, *pair.rejected).sum() - reference_rejected
        losses.append(-torch.nn.functional.logsigmoid(beta * (chosen_ratio - rejected_ratio)))
    if not losses:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(losses).mean()


def keep_loss(
    model: Module, sequences: list[Sequence], teachers: list[Tensor], weights: list[list[float]]
) -> Tensor:
    """Weighted mean over all answer tokens of KL(teacher || model), every token summed over V.

    ``teachers[i]`` holds the teacher's log-probabilities at the answer of ``sequences[i]``, (T, V).
    """
    total = torch.zeros((), dtype=torch.float64)
    for (prompt_ids, answer_ids), teacher, row in zip(sequences, teachers, weights, strict=True):
        logits = model(input_ids=torch.tensor([[*prompt_ids, *answer_ids]])).logits[0].double()
        for index, weight in enumerate(row):
            own = torch.log_softmax(logits[len(prompt_ids) + index - 1], dim=-1)
            said = teacher[index].double()
            total = total + weight * (said.exp() * (said - own)).sum()
    return total / sum(map(sum, weights))


def reference_sums(model: Module, pairs: list[Pair]) -> list[tuple[float, float]]:
    """What ``dpo_loss`` wants as ``reference``, from the model as it is now."""
    with torch.no_grad():
        return [
            (
                answer_logps(model, *pair.chosen).sum().item(),
                answer_logps(model, *pair.rejected).sum().item() if pair.rejected else 0.0,
            )
            for pair in pairs
        ]


def merge(gradients: list[Tensor], projection: str) -> Tensor:
    """One update from the gradients [SFT, DPO]; a single gradient is its own merge.

    none: their sum.
    pcgrad: Yu et al. 2020. Each is projected against the *original* others; the sum.
    one-sided: the CoRSA authors' code. In the order [DPO, SFT], each is projected against the
        others *as projected so far*, so that only DPO is ever bent; the mean.
    """
    if projection == "none":
        return sum(gradients)
    if projection == "pcgrad":
        bent = []
        for i, gradient in enumerate(gradients):
            for j, other in enumerate(gradients):
                if i != j:
                    gradient = _remove_conflict(gradient, other)
            bent.append(gradient)
        return sum(bent)
    if projection == "one-sided":
        bent = list(reversed(gradients))
        for i in range(len(bent)):
            for j in range(len(bent)):
                if i != j:
                    bent[i] = _remove_conflict(bent[i], bent[j])
        return sum(bent) / len(bent)
    raise ValueError(f"unknown projection {projection!r}")


def _remove_conflict(gradient: Tensor, other: Tensor) -> Tensor:
    """Without its component along ``other`` where the two oppose each other."""
    dot = gradient @ other
    return gradient - dot / (other @ other) * other if dot < 0 else gradient


def corsa_gradient(
    model: Module,
    params: dict[str, Parameter],
    pairs: list[Pair],
    *,
    sft: bool,
    dpo: bool,
    projection: str,
    rho: float | None,
    beta: float,
    sft_weight: float = 1.0,
    reference: list[tuple[float, float]] | None = None,
) -> dict[str, Tensor]:
    """The update direction of one step, by parameter name, in float64.

    ``rho=None`` is a step without SAM. ``params`` are all that is perturbed and all that gets a
    gradient; afterwards they hold what they held before.
    """

    def merged_gradient() -> Tensor:
        losses = []
        if sft:
            losses.append(sft_weight * sft_loss(model, pairs))
        if dpo:
            losses.append(dpo_loss(model, pairs, reference, beta))
        return merge([_flat_gradient(loss, params) for loss in losses], projection)

    if not (sft or dpo):
        raise ValueError("a step needs a loss")
    update = merged_gradient()
    if rho is not None and update.norm() > 0:
        epsilon = _by_name(rho * update / update.norm(), params)
        before = {name: parameter.detach().clone() for name, parameter in params.items()}
        try:
            with torch.no_grad():
                for name, parameter in params.items():
                    parameter.copy_(before[name].double() + epsilon[name])
            update = merged_gradient()
        finally:
            with torch.no_grad():
                for name, parameter in params.items():
                    parameter.copy_(before[name])
    return _by_name(update, params)


def _flat_gradient(loss: Tensor, params: dict[str, Parameter]) -> Tensor:
    """The gradient as one float64 vector, in the order of ``params``."""
    if not loss.requires_grad:  # no pair had a rejected answer
        return torch.zeros(sum(p.numel() for p in params.values()), dtype=torch.float64)
    gradients = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
    return torch.cat([gradient.double().flatten() for gradient in gradients])


def _by_name(flat: Tensor, params: dict[str, Parameter]) -> dict[str, Tensor]:
    pieces = flat.split([parameter.numel() for parameter in params.values()])
    return {
        name: piece.view(parameter.shape)
        for (name, parameter), piece in zip(params.items(), pieces, strict=True)
    }
