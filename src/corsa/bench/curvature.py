"""How sharp the loss is where a round ended: a step uphill, and in the steepest direction of all.

The paper's argument for SAM is that a later round moves the weights by some Δ and costs an edit about
½ Δᵀ∇²m Δ of its margin. What SAM flattens should therefore be flatter; here it is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector

from corsa.answerers import Answerer
from corsa.bench.finished import Finished, Numbers
from corsa.config import Config
from corsa.forward import Forward
from corsa.losses import sft_loss
from corsa.models import Adapter, BaseModel
from corsa.optional import optional
from corsa.planning import PlannedEdit
from corsa.projection import merge
from corsa.sharpness import perturbed
from corsa.step import Example, loss_gradients

EDITS = 16
PROTOCOL = (
    f"the first {EDITS} edits of a round after it, nothing kept or replayed; all A and B matrices of "
    "the adapter; Lanczos to 1 %"
)
# Relative accuracy of the eigenvalue: two rounds differ by far more.
_TOLERANCE = 1e-2


def curvature(finished: Finished) -> Numbers:
    """Sharpness of the last round's losses, and the top eigenvalue of its SFT loss.

    Args:
        finished: the run.

    Returns:
        sharpness_sft and sharpness: L(φ + ρ g/‖g‖) − L(φ) of the SFT loss, and of the losses the round
        was trained on, in nats; hessian_top: the largest eigenvalue of ∇²L_SFT. `None` without an
        adapter.
    """
    params, batch = _last_round(finished)
    found = _sharpnesses(finished, params, batch)
    if not batch:
        return found | {"hessian_top": None}
    with finished.base.using(finished.adapter):
        top = top_eigenvalue(finished.base.forward, params, batch)
    return found | {"hessian_top": _digits(top)}


def round_sharpness(finished: Finished) -> Numbers:
    """Sharpness alone: cheap enough for every round.

    Args:
        finished: a run after any of its rounds.

    Returns:
        sharpness_sft and sharpness, as in `curvature`.
    """
    return _sharpnesses(finished, *_last_round(finished))


def _sharpnesses(
    finished: Finished, params: Mapping[str, Tensor], batch: Sequence[Example]
) -> Numbers:
    if not batch:
        return {"sharpness_sft": None, "sharpness": None}
    config, forward = finished.config, finished.base.forward
    sft = replace(
        config, sft=True, sft_weight=1.0, dpo=False, contrast_dpo=False, projection="none"
    )
    with finished.base.using(finished.adapter):
        return {
            "sharpness_sft": _digits(sharpness(forward, params, batch, sft)),
            "sharpness": _digits(sharpness(forward, params, batch, config)),
        }


def _last_round(finished: Finished) -> tuple[Mapping[str, Tensor], list[Example]]:
    """The adapter's parameters, and the first edits of the last round; none without an adapter."""
    name = finished.adapter
    params = {} if name is None else Adapter(finished.base, name).params
    last = [edit for edit in finished.edits if edit.round == finished.edits[-1].round]
    return params, examples(finished.base, finished.before, last[:EDITS]) if params else []


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def examples(base: BaseModel, before: Answerer, edits: Sequence[PlannedEdit]) -> list[Example]:
    """Edits as a first round trains on them, DPO's reference the base model.

    Args:
        base: the model, for its chat template.
        before: the base model.
        edits: any.

    Returns:
        One example per edit.
    """
    made = []
    for planned in edits:
        prompt, new, old = planned.edit.prompt, planned.edit.target_new, planned.target_old
        chosen = base.chat.exchange(prompt, new)
        if planned.already_said or old is None:
            made.append(Example(chosen))
            continue
        plus, minus = (
            float(logps.tokens.sum()) for logps in before.logps([prompt] * 2, [new, old])
        )
        made.append(Example(chosen, base.chat.exchange(prompt, old), (plus, minus)))
    return made


def sharpness(
    forward: Forward, params: Mapping[str, Tensor], batch: Sequence[Example], config: Config
) -> float:
    """How much the loss rises within ρ, to first order of SAM (Foret et al. 2021, eq. 2).

    Args:
        forward: the model, the adapter acting.
        params: the adapter's parameters φ, by name; they are bit-equal afterwards.
        batch: examples.
        config: which losses L is the sum of, how their gradients are merged to g, and ρ.

    Returns:
        L(φ + ρ g/‖g‖) − L(φ), nats.
    """
    here = loss_gradients(forward, params, batch, config)
    uphill = merge(list(here.gradients.values()), config.projection)
    with perturbed(params, uphill, config.rho):
        there = loss_gradients(forward, params, batch, config)
    return sum(there.losses.values()) - sum(here.losses.values())


def top_eigenvalue(
    forward: Forward, params: Mapping[str, Tensor], batch: Sequence[Example]
) -> float:
    """The largest eigenvalue of the SFT loss's Hessian, by Lanczos on exact products with it.

    Hv is the gradient of gᵀv: one graph of the gradient is kept, and each product is one pass back
    through it. Fused attention has no second derivative, so attention is computed step by step here.

    Args:
        forward: the model, the adapter acting.
        params: the adapter's parameters, by name.
        batch: examples.

    Returns:
        λ_max, to a relative accuracy of 1 %.
    """
    linalg = optional("scipy.sparse.linalg", "bench")
    tensors = list(params.values())
    sizes = [tensor.numel() for tensor in tensors]
    with sdpa_kernel(SDPBackend.MATH):
        tokens = torch.cat([s.tokens for s in forward.answer_logps([e.chosen for e in batch])])
        loss = sft_loss(tokens, len(tokens))
        gradient = torch.autograd.grad(loss, tensors, create_graph=True)

    def product(vector: object) -> object:
        parts = torch.split(torch.as_tensor(vector).to(tensors[0]), sizes)
        shaped = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
        found = torch.autograd.grad(gradient, tensors, shaped, retain_graph=True)
        return parameters_to_vector(found).cpu().numpy()

    size = sum(sizes)
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=tensors[0].dtype)
    hessian = linalg.LinearOperator((size, size), matvec=product, dtype=start.numpy().dtype)
    (top,) = linalg.eigsh(
        hessian, k=1, which="LA", v0=start.numpy(), tol=_TOLERANCE, return_eigenvectors=False
    )
    return float(top)
