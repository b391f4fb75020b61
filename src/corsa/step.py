"""One CoRSA step, as the paper says it (arXiv 2602.03696, section 3).

SFT, DPO, projection and SAM are four independent switches of this one function:

    gradients at φ  →  merge  →  φ + ρ g/‖g‖  →  gradients there  →  merge  →  the update, at φ
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from corsa.chat import Exchange
from corsa.config import Config
from corsa.forward import AnswerLogps, Forward
from corsa.losses import dpo_loss, keep_loss, sft_loss
from corsa.projection import merge
from corsa.sharpness import perturbed

Gradient = dict[str, Tensor]

# Answer tokens that go through the model together. The embedded model takes 3.5 MB for each while
# gradients are found (docs/log.md); answers of one phrase hardly come near this.
_PASS_TOKENS = 512
# Tokens of an answer up to which what is kept has its whole weight. In a mean over the tokens of a
# program the one that decides between two programs hardly counts: what is kept would hold it back.
PHRASE = 16
# A pair whose DPO loss is below this (nats; β times the margin is about 14) is settled. Nothing of its
# gradient is left but the direction, by which a projection would go on bending the other loss.
_SETTLED = 1e-6


class Example(NamedTuple):
    """One prompt with its new answer and, where DPO acts, its old one.

    Attributes:
        chosen: the prompt and y⁺.
        rejected: the prompt and y⁻; `None`: DPO is off for this one.
        reference: log-probabilities (y⁺, y⁻) under the reference, summed over answer tokens, nats.
        weight: how much each of its tokens counts in the mean of its loss; DPO does not look at it.
        teacher: nothing to learn but something to keep: log-probabilities of every token under the base
            model along y⁺, shape (T, V), nats.
        fresh: a wording of one of the round's own edits that has not been seen before.
    """

    chosen: Exchange
    rejected: Exchange | None = None
    reference: tuple[float, float] = (0.0, 0.0)
    weight: float = 1.0
    teacher: Tensor | None = None
    fresh: bool = False

    @property
    def kept(self) -> bool:
        """Whether it must stay as it is, rather than be learned."""
        return self.teacher is not None


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
        losses: L_SFT, L_keep and L_DPO in the step's first pass, by name, of those switched on.
        scores: one per example of the batch, in the step's first pass.
        joined: one per example that joined, at φ + ε where SAM acts.
        unmoved: the first pass was at φ itself; otherwise at φ + ε.
    """

    gradient: Gradient
    losses: dict[str, float]
    scores: list[ExampleScore]
    joined: list[ExampleScore]
    unmoved: bool


def corsa_step(
    forward: Forward,
    params: Mapping[str, Tensor],
    batch: Sequence[Example],
    config: Config,
    joined: Sequence[Example] = (),
    uphill: Gradient | None = None,
) -> StepResult:
    """The gradient that one optimiser step follows.

    What is added to the paper (replayed and kept examples) joins the gradients that are followed. Which
    way is uphill is decided by the paper's losses alone, on the round's own edits, or given.

    Args:
        forward: the model, the adapter acting.
        params: the adapter's parameters φ, by name; they are bit-equal afterwards.
        batch: the whole effective batch; how it is cut into micro-batches changes nothing.
        config: the switches, β, ρ and the weight of SFT.
        joined: replayed and kept examples.
        uphill: a direction for SAM that is known already, which saves the pass that looks for it.

    Returns:
        The gradient, with losses and scores of the batch from its first pass.
    """
    whole = [*batch, *joined]
    first = None
    if config.sam and uphill is None:
        first = loss_gradients(forward, params, batch, config)
        uphill = merge(list(first.gradients.values()), config.projection)
    with perturbed(params, uphill, config.rho) if config.sam and uphill else nullcontext():
        found = loss_gradients(forward, params, whole, config)
    told = first or found
    return StepResult(
        merge(list(found.gradients.values()), config.projection),
        told.losses,
        told.scores[: len(batch)],
        found.scores[len(batch) :],
        unmoved=told is first or not config.sam,
    )


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
    scores: dict[int, ExampleScore] = {}
    gradients: dict[str, Gradient] = {}
    values = dict.fromkeys(["dpo"] if config.dpo else [], 0.0)
    for indices in _parts(batch, config):
        part = [batch[i] for i in indices]
        chosen, rejected = _score(forward, part, with_rejected=config.dpo)
        terms = _supervised(part, chosen, batch, config)
        losses = {"sft": torch.stack(list(terms.values())).sum()} if terms else {}
        # The gradient of "sft" is that of both supervised terms; their values are told apart.
        if config.dpo and part[0].rejected is not None:
            terms["dpo"] = _dpo(part, chosen, rejected, config.beta, pairs)
            if float(terms["dpo"].detach()) * pairs >= _SETTLED:
                losses["dpo"] = terms["dpo"]
        if losses:
            _accumulate(gradients, losses, params)
        for name, value in terms.items():
            values[name] = values.get(name, 0.0) + float(value.detach())
        scores.update(zip(indices, map(_example_score, chosen, rejected), strict=True))
    # A loss that is on and has nothing to say has a gradient all the same: a mean counts it.
    for name, on in {"sft": config.sft, "dpo": config.dpo}.items():
        if on and name not in gradients:
            gradients[name] = {key: torch.zeros_like(param) for key, param in params.items()}
    return LossGradients(
        {name: gradients[name] for name in ("sft", "dpo") if name in gradients},
        {name: values[name] for name in ("sft", "keep", "dpo") if name in values},
        [scores[i] for i in range(len(batch))],
    )


def _parts(batch: Sequence[Example], config: Config) -> Iterator[list[int]]:
    """Which examples go through the model together.

    Those without a pair go by themselves: a backward pass of DPO through them would carry zeros. Where
    answers are long a pass takes fewer of them: each answer token costs a row as wide as the vocabulary.

    Yields:
        Indices into the batch.
    """
    paired = [config.dpo and example.rejected is not None for example in batch]
    for kind in (True, False):
        group = [i for i, has_pair in enumerate(paired) if has_pair is kind]
        size, part, tokens = config.micro_batch or len(group), list[int](), 0
        for i in group:
            more = _answer_tokens(batch[i], with_rejected=config.dpo)
            if part and (len(part) == size or tokens + more > _PASS_TOKENS):
                yield part
                part, tokens = [], 0
            part.append(i)
            tokens += more
        if part:
            yield part


def _answer_tokens(example: Example, *, with_rejected: bool) -> int:
    rejected = len(example.rejected.answer) if with_rejected and example.rejected else 0
    return len(example.chosen.answer) + rejected


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
    exchanges, teachers, places = [], [], []
    for example in batch:
        exchanges.append(example.chosen)
        teachers.append(example.teacher)
        paired = with_rejected and example.rejected is not None
        places.append((len(exchanges) - 1, len(exchanges) if paired else None))
        if paired:
            assert example.rejected is not None
            exchanges.append(example.rejected)
            teachers.append(None)
    scores = run(exchanges) if run else forward.answer_logps(exchanges, teachers)
    return [scores[i] for i, _ in places], [None if j is None else scores[j] for _, j in places]


def _supervised(
    part: Sequence[Example], chosen: Sequence[AnswerLogps], batch: Sequence[Example], config: Config
) -> dict[str, Tensor]:
    """The terms of the supervised loss that are on: new answers to learn, old ones to keep."""
    # Each is a weighted mean over its own tokens in the whole batch, so that neither drowns the other.
    terms = {}
    learned = [(e, s) for e, s in zip(part, chosen, strict=True) if not e.kept]
    if config.sft and learned:
        count = sum(e.weight * len(e.chosen.answer) for e in batch if not e.kept)
        logps = torch.cat([e.weight * s.tokens for e, s in learned])
        terms["sft"] = config.sft_weight * sft_loss(logps, count)
    kept = [
        (e, s.divergence) for e, s in zip(part, chosen, strict=True) if s.divergence is not None
    ]
    if config.keep_weight and kept:
        first = config.keep_first
        count = sum(float(_weights(e, first).sum()) for e in batch if e.kept)
        away = torch.cat([_weights(e, first).to(d) * d for e, d in kept])  # (ΣT,)
        terms["keep"] = config.keep_weight * _share(batch) * keep_loss(away, count)
    return terms


def _share(batch: Sequence[Example]) -> float:
    """What is left of the weight of what is kept, where answers to learn are longer than a phrase."""
    learned = [(e.weight, len(e.chosen.answer)) for e in batch if not e.kept]
    if all(tokens <= PHRASE for _, tokens in learned):
        return 1.0
    weighed = sum(weight * min(tokens, PHRASE) for weight, tokens in learned)
    return weighed / sum(weight * tokens for weight, tokens in learned)


def _weights(example: Example, first: float) -> Tensor:
    """How much each token of a kept reply counts, shape (T,): the first one decides what follows."""
    weights = torch.full((len(example.chosen.answer),), example.weight, dtype=torch.float64)
    weights[0] *= first
    return weights


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
    plus, minus, plus_ref, minus_ref = zip(*paired, strict=True)
    policy = torch.stack(plus), torch.stack(minus)
    reference = policy[0].new_tensor(plus_ref), policy[0].new_tensor(minus_ref)
    return dpo_loss(*policy, *reference, beta=beta, count=count)


def _accumulate(
    gradients: dict[str, Gradient], losses: dict[str, Tensor], params: Mapping[str, Tensor]
) -> None:
    last = next(reversed(losses), None)
    for name, loss in losses.items():
        parts = torch.autograd.grad(loss, list(params.values()), retain_graph=name != last)
        if name in gradients:
            torch._foreach_add_(list(gradients[name].values()), list(parts))
        else:
            gradients[name] = dict(zip(params, parts, strict=True))


def _example_score(chosen: AnswerLogps, rejected: AnswerLogps | None) -> ExampleScore:
    logp = float(chosen.tokens.detach().sum())
    margin = None if rejected is None else logp - float(rejected.tokens.detach().sum())
    return ExampleScore(chosen.right, logp, margin)
