"""What a subject's last token must carry so that a fact is told: found before any weight changes.

Facts are recalled at the last token of their subject in the middle MLPs (Meng et al. 2022, arXiv
2202.05262). So gradients first act on one vector an edit, which is added to what a layer says at that
token in every wording; base weights and adapter stay as they are. Another subject's token carries
nothing new, so nothing has to be told apart from it. `corsa.solving` writes them into the adapter.

Of CoRSA's losses L_SFT alone is followed here: with DPO, projection and SAM the same vectors take half
as many steps again and more (docs/log.md), and there is no weight yet that a later round could undo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from corsa.config import Config
from corsa.errors import TrainingError
from corsa.forward import Spot
from corsa.models import BaseModel
from corsa.step import Example, ExampleScore, corsa_step

# Adam's rate and moments. Values are in units of the usual length of what the layer says there.
_RATE, _BETAS = 7e-3, (0.9, 0.99)
# Weight of what else is said of the subject, beside 1 for the new answers.
_SAME_SUBJECT = 0.5


class Told(NamedTuple):
    """A prompt whose answer depends on a value.

    Attributes:
        example: the prompt and what is to be answered, or to be kept.
        place: of the subject's last token in the prompt.
        value: which value is added there.
    """

    example: Example
    place: int
    value: int

    @property
    def spot(self) -> Spot:
        """Where its value is added."""
        return Spot(self.place, self.value)


class Values(NamedTuple):
    """What was found.

    Attributes:
        shifts: what is to be added to what the layer says, shape (E, D).
        steps: taken.
        loss: L_SFT at the end, nats.
        right: share of the wordings that were right.
    """

    shifts: Tensor
    steps: int
    loss: float
    right: float


def find(
    base: BaseModel,
    adapter: str,
    layer: nn.Module,
    told: Sequence[Told],
    config: Config,
    on_step: Callable[[int, float, float], None],
) -> Values:
    """Find one value an edit.

    Args:
        base: the model.
        adapter: name of the adapter that acts.
        layer: of the decoder; what it says is added to.
        told: every edit's own prompt and its wordings; what else is said of the subject as examples to
            keep.
        config: `solve_steps`, `solve_loss` and `train_dtype`.
        on_step: told the step's number, L_SFT and the share that is right.

    Returns:
        The values; one is done as soon as every wording of its edit is right and its L_SFT below
        `solve_loss`.

    Raises:
        TrainingError: if a loss is not finite.
    """
    spots = {one.example.chosen.prompt: one.spot for one in told}
    config = replace(
        config,
        sft=True,
        sft_weight=1.0,
        dpo=False,
        projection="none",
        sam=False,
        keep_weight=_SAME_SUBJECT,
        keep_first=1.0,
    )
    states: dict[int, _State] = {}
    with base.using(adapter), _frozen(base), base.computing_in(config.train_dtype):
        length = float(_usual_length(base, layer, told))
        width = base.hf.get_input_embeddings().weight.shape[1]
        count = 1 + max(one.value for one in told)
        values = torch.zeros(count, width, device=base.device, requires_grad=True)
        optimizer = torch.optim.Adam([values], lr=_RATE, betas=_BETAS)
        step, left = 0, list(told)
        with base.forward.shifting(layer, spots, lambda: length * values):
            while True:
                learned = [one for one in left if not one.example.kept]
                kept = [one.example for one in left if one.example.kept]
                batch = [one.example for one in learned]
                result = corsa_step(base.forward, {"values": values}, batch, config, kept)
                states |= _states(learned, result.scores)
                # A value that is good enough stays as it is: nothing of the others depends on it.
                done = {value for value, state in states.items() if state.done(config)}
                left = [one for one in left if one.value not in done]
                on_step(step, *_summed(states))
                if step == config.solve_steps or not left:
                    break
                before = values.detach().clone()
                # A mean over the batch: its size must not decide how far a value has come.
                tokens = sum(len(example.chosen.answer) for example in batch)
                values.grad = tokens * result.gradient["values"]
                optimizer.step()
                with torch.no_grad():
                    values[list(done)] = before[list(done)]
                step += 1
        return Values(length * values.detach(), step, *_summed(states))


class _State(NamedTuple):
    """How one value stands: answer tokens, log-probability, wordings and how many of them are right."""

    tokens: int
    logp: float
    wordings: int
    right: int

    def done(self, config: Config) -> bool:
        """Whether it is good enough."""
        return self.right == self.wordings and -self.logp <= config.solve_loss * self.tokens


def _states(learned: Sequence[Told], scores: Sequence[ExampleScore]) -> dict[int, _State]:
    found: dict[int, _State] = {}
    for one, score in zip(learned, scores, strict=True):
        before = found.get(one.value, _State(0, 0.0, 0, 0))
        found[one.value] = _State(
            before.tokens + len(one.example.chosen.answer),
            before.logp + score.logp,
            before.wordings + 1,
            before.right + score.right,
        )
    return found


def _summed(states: Mapping[int, _State]) -> tuple[float, float]:
    """L_SFT over all values, nats, and the share of wordings that are right."""
    tokens, logp, wordings, right = map(sum, zip(*states.values(), strict=True))
    if not math.isfinite(logp):
        raise TrainingError("L_SFT is not finite while values are looked for: say solve=false")
    return -logp / tokens, right / wordings


def _usual_length(base: BaseModel, layer: nn.Module, told: Sequence[Told]) -> Tensor:
    """The mean length of what the layer says at the subjects' last tokens."""
    return torch.cat(
        [
            passed.output[[path[one.place] for path, one in found]].float().norm(dim=-1)
            for passed, found in passes(base, [], layer, told)
        ]
    ).mean()


def passes(
    base: BaseModel, modules: Sequence[nn.Module], layer: nn.Module, told: Sequence[Told]
) -> Iterator[tuple[Any, list[tuple[list[int], Told]]]]:
    """What passes with some prompts.

    Args:
        base: the model.
        modules: whose inputs are wanted.
        layer: whose output is wanted.
        told: the prompts.

    Yields:
        For each pass what passed, and its prompts with the rows of their tokens.
    """
    rest = iter(told)
    for passed in base.forward.passing([one.example.chosen for one in told], modules, layer):
        yield passed, [(path, next(rest)) for path in passed.paths]


@contextmanager
def _frozen(base: BaseModel) -> Iterator[None]:
    """Inside the block no adapter has gradients: none is wanted, and they would be kept for."""
    params = [param for param in base.hf.parameters() if param.requires_grad]
    try:
        for param in params:
            param.requires_grad_(requires_grad=False)
        yield
    finally:
        for param in params:
            param.requires_grad_(requires_grad=True)
