"""One CoRSA step, as the paper says it (arXiv 2602.03696, section 3).

SFT, DPO, projection and SAM are four independent switches of this one function:

    gradients at φ  →  merge  →  φ + ρ g/‖g‖  →  gradients there  →  merge  →  the update, at φ
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from corsa.chat import Exchange
from corsa.config import Config
from corsa.forward import AnswerLogps, Forward
from corsa.losses import dpo_loss, sft_loss
from corsa.projection import merge
from corsa.sharpness import perturbed

Gradient = dict[str, Tensor]


class Example(NamedTuple):
    """One prompt with its new answer and, where DPO acts, its old one.

    Attributes:
        chosen: the prompt and y⁺.
        rejected: the prompt and y⁻; `None`: DPO is off for this one.
        reference: log-probabilities (y⁺, y⁻) under the reference, summed over answer tokens, nats.
        kept: nothing to learn but something to keep: y⁺ is what the base model answers.
    """

    chosen: Exchange
    rejected: Exchange | None = None
    reference: tuple[float, float] = (0.0, 0.0)
    kept: bool = False


class ExampleScore(NamedTuple):
    """How one example stands at the unperturbed weights.

    Attributes:
        right: greedy decoding would write y⁺ and end-of-turn.
        logp: log p(y⁺|x), nats.
        margin: log p(y⁺|x) − log p(y⁻|x), nats; `None` without y⁻.
    """

    right: bool
    logp: float
    margin: float | None


class StepResult(NamedTuple):
    """What a step computed.

    Attributes:
        gradient: the update's gradient, by parameter name.
        losses: L_SFT, L_keep and L_DPO at the unperturbed weights, by name, of those switched on.
        scores: one per example, at the unperturbed weights.
    """

    gradient: Gradient
    losses: dict[str, float]
    scores: list[ExampleScore]


def corsa_step(
    forward: Forward,
    params: Mapping[str, Tensor],
    batch: Sequence[Example],
    config: Config,
    joined: Sequence[Example] = (),
) -> StepResult:
    """The gradient that one optimiser step follows.

    What is added to the paper (replayed and kept examples) joins the gradients that are followed. Which
    way is uphill is decided by the paper's losses alone, on the round's own edits.

    Args:
        forward: the model, the adapter acting.
        params: the adapter's parameters φ, by name; they are bit-equal afterwards.
        batch: the whole effective batch; how it is cut into micro-batches changes nothing.
        config: the switches, β, ρ and the weight of SFT.
        joined: replayed and kept examples.

    Returns:
        The gradient, with losses and scores of the batch from its first pass.
    """
    whole = [*batch, *joined]
    first = loss_gradients(forward, params, batch if config.sam else whole, config)
    gradient = merge(list(first.gradients.values()), config.projection)
    if config.sam:
        with perturbed(params, gradient, config.rho):
            uphill = loss_gradients(forward, params, whole, config)
        gradient = merge(list(uphill.gradients.values()), config.projection)
    return StepResult(gradient, first.losses, first.scores[: len(batch)])


class LossGradients(NamedTuple):
    """Gradients and values of the losses that are switched on, by name, in the order SFT, DPO."""

    gradients: dict[str, Gradient]
    losses: dict[str, float]
    scores: list[ExampleScore]


def loss_gradients(
    forward: Forward, params: Mapping[str, Tensor], batch: Sequence[Example], config: Config
) -> LossGradients:
    """The gradient of each loss over the whole effective batch, at the weights as they are.

    Args:
        forward: the model, the adapter acting.
        params: the adapter's parameters, by name.
        batch: the whole effective batch.
        config: switches and weights.

    Returns:
        One gradient per loss; each micro-batch costs one forward pass and one backward per loss.
    """
    pairs = sum(example.rejected is not None for example in batch)
    total = LossGradients({}, {}, [])
    size = config.micro_batch or len(batch)
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        chosen, rejected = _score(forward, part, with_rejected=config.dpo)
        losses = {}
        if terms := _supervised(part, chosen, batch, config):
            losses["sft"] = torch.stack(list(terms.values())).sum()
        if config.dpo:
            losses["dpo"] = _dpo(part, chosen, rejected, config.beta, pairs)
        _accumulate(total, losses, params)
        # The gradient of "sft" is that of both supervised terms; their values are told apart.
        dpo = {"dpo": losses["dpo"]} if config.dpo else {}
        for name, value in {**terms, **dpo}.items():
            total.losses[name] = total.losses.get(name, 0.0) + float(value.detach())
        total.scores.extend(map(_example_score, chosen, rejected))
    return total


def score_examples(forward: Forward, examples: Sequence[Example]) -> list[ExampleScore]:
    """How examples stand at the weights as they are; no gradients.

    Args:
        forward: the model.
        examples: any number of them.

    Returns:
        One score per example.
    """
    chosen, rejected = _score(forward, examples, with_rejected=True, run=forward.score)
    return list(map(_example_score, chosen, rejected))


def _score(
    forward: Forward,
    batch: Sequence[Example],
    *,
    with_rejected: bool,
    run: Callable[[list[Exchange]], list[AnswerLogps]] | None = None,
) -> tuple[list[AnswerLogps], list[AnswerLogps | None]]:
    """Chosen and rejected answers of a batch in one pass, both answers to a prompt side by side."""
    exchanges, places = [], []
    for example in batch:
        exchanges.append(example.chosen)
        paired = with_rejected and example.rejected is not None
        places.append((len(exchanges) - 1, len(exchanges) if paired else None))
        if paired:
            assert example.rejected is not None
            exchanges.append(example.rejected)
    scores = (run or forward.answer_logps)(exchanges)
    return [scores[i] for i, _ in places], [None if j is None else scores[j] for _, j in places]


def _supervised(
    part: Sequence[Example], chosen: Sequence[AnswerLogps], batch: Sequence[Example], config: Config
) -> dict[str, Tensor]:
    """The terms of the supervised loss that are on: new answers to learn, old ones to keep."""
    # Each is a mean over its own tokens in the whole batch, so that neither drowns the other.
    weights = {False: ("sft", config.sft_weight * config.sft), True: ("keep", config.keep_weight)}
    terms = {}
    for kept, (name, weight) in weights.items():
        logps = [s.tokens for e, s in zip(part, chosen, strict=True) if e.kept is kept]
        if weight and logps:
            tokens = sum(len(example.chosen.answer) for example in batch if example.kept is kept)
            terms[name] = weight * sft_loss(torch.cat(logps), tokens)
    return terms


def _dpo(
    batch: Sequence[Example],
    chosen: list[AnswerLogps],
    rejected: list[AnswerLogps | None],
    beta: float,
    count: int,
) -> Tensor:
    paired = [
        (c.tokens.sum(), r.tokens.sum(), *example.reference)
        for example, c, r in zip(batch, chosen, rejected, strict=True)
        if r is not None
    ]
    if not paired:
        return 0.0 * chosen[0].tokens.sum()
    plus, minus, plus_ref, minus_ref = zip(*paired, strict=True)
    policy = torch.stack(plus), torch.stack(minus)
    reference = policy[0].new_tensor(plus_ref), policy[0].new_tensor(minus_ref)
    return dpo_loss(*policy, *reference, beta=beta, count=count)


def _accumulate(
    total: LossGradients, losses: dict[str, Tensor], params: Mapping[str, Tensor]
) -> None:
    last = next(reversed(losses), None)
    for name, loss in losses.items():
        parts = torch.autograd.grad(loss, list(params.values()), retain_graph=name != last)
        gradient = dict(zip(params, parts, strict=True))
        if name in total.gradients:
            for key, part in gradient.items():
                total.gradients[name][key] += part
        else:
            total.gradients[name] = gradient


def _example_score(chosen: AnswerLogps, rejected: AnswerLogps | None) -> ExampleScore:
    logp = float(chosen.tokens.detach().sum())
    margin = None if rejected is None else logp - float(rejected.tokens.detach().sum())
    return ExampleScore(chosen.right, logp, margin)
