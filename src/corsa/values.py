"""What a subject's last token must carry so that a fact is told: found before any weight changes.

Facts are recalled at the last token of their subject in the middle MLPs (Meng et al. 2022, arXiv
2202.05262). So gradients first act on one vector a subject, which is added to what a layer says at that
token in every wording; base weights and adapter stay as they are. Another subject's token carries
nothing new, so nothing has to be told apart from it. `corsa.solving` writes them into the adapter.

Of CoRSA's losses L_SFT alone is followed here: with DPO, projection and SAM the same vectors take half
as many steps again and more (docs/log.md), and there is no weight yet that a later round could undo.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from corsa.config import Config
from corsa.errors import TrainingError
from corsa.forward import Spot
from corsa.models import BaseModel
from corsa.step import PHRASE, Example, ExampleScore, corsa_step
from corsa.training import SURE

# Adam's rate and moments. Values are in units of the usual length of what the layer says there; how long
# they get hardly matters, for they are added at their subjects alone.
_RATE, _BETAS = 3e-2, (0.9, 0.99)
# Steps over which a value must be right.
_LAST = 4
# Tokens of the longest answer that a value is looked for: sentences of that length hold in packaged
# wordings, titles of 24 tokens hardly (docs/log.md). A program is longer, and is trained.
SENTENCE = 32


class Told(NamedTuple):
    """A prompt whose answer depends on a value.

    Attributes:
        example: the prompt and what is to be answered, or to be kept.
        place: of the subject's last token in the prompt.
        value: which value is added there.
        wanted: of what is to be kept, that it is asked for: a value is not done before it is.
    """

    example: Example
    place: int
    value: int
    wanted: bool = False

    @property
    def spot(self) -> Spot:
        """Where its value is added."""
        return Spot(self.place, self.value)


class Values(NamedTuple):
    """What was found.

    Attributes:
        shifts: what is to be added to what the layer says, shape (E, D).
        steps: taken.
        loss: L_SFT over the last wordings, nats.
        fresh: share of those that were right, all of them new to their value.
    """

    shifts: Tensor
    steps: int
    loss: float
    fresh: float


# What a step looks at, given its number and the values that are looked for: what is learned, and what
# else is said of their subjects.
Draw = Callable[[int, Collection[int]], tuple[list[Told], list[Told]]]


def steps_for(tokens: int, config: Config) -> int:
    """Steps after which a value is taken as it is: `solve_steps` for each phrase of its answer.

    Args:
        tokens: of its longest answer.
        config: the settings.

    Returns:
        Their number.
    """
    return config.solve_steps * max(1, math.ceil(tokens / PHRASE))


def find(
    base: BaseModel,
    adapter: str,
    layer: nn.Module,
    count: int,
    draw: Draw,
    config: Config,
    on_step: Callable[[int, float, float], None],
) -> Values:
    """Find one value a subject.

    Wordings come once each: found in a few fixed ones, a value holds in those alone.

    Args:
        base: the model.
        adapter: name of the adapter that acts.
        layer: of the decoder; what it says is added to.
        count: how many values.
        draw: gives each step its edits' own prompts and fresh wordings (`Example.fresh`).
        config: `solve_steps`, `solve_loss`, `solve_keep` and `train_dtype`.
        on_step: told the step's number, L_SFT and the share of fresh wordings that is right.

    Returns:
        The values; one is done as soon as its facts' own prompts are right, nine in ten of its last
        fresh wordings and of what is wanted, and L_SFT over the wordings is below `solve_loss`.

    Raises:
        TrainingError: if a loss is not finite.
    """
    config = replace(
        config,
        sft=True,
        sft_weight=1.0,
        dpo=False,
        projection="none",
        sam=False,
        keep_weight=config.solve_keep,
        keep_first=1.0,
    )
    looks = {value: deque[_Look](maxlen=_LAST) for value in range(count)}
    spots: dict[tuple[int, ...], set[Spot]] = {}
    with base.using(adapter), _frozen(base), base.computing_in(config.train_dtype):
        learned, kept = draw(0, looks)
        last = {
            value: steps_for(max(_answer(one) for one in learned if one.value == value), config)
            for value in looks
        }
        length = float(_usual_length(base, layer, learned))
        width = base.hf.get_input_embeddings().weight.shape[1]
        values = torch.zeros(count, width, device=base.device, requires_grad=True)
        optimizer = torch.optim.Adam([values], lr=_RATE, betas=_BETAS)
        step, left = 0, list(looks)
        with base.forward.shifting(layer, spots, lambda: length * values):
            while True:
                spots.clear()
                for one in [*learned, *kept]:
                    spots.setdefault(one.example.chosen.prompt, set()).add(one.spot)
                batch = [one.example for one in learned]
                result = corsa_step(
                    base.forward, {"values": values}, batch, config, [one.example for one in kept]
                )
                seen = [
                    *zip(learned, result.scores, strict=True),
                    *zip(kept, result.joined, strict=True),
                ]
                for value in left:
                    looks[value].append(_look([pair for pair in seen if pair[0].value == value]))
                # A value that is good enough stays as it is: nothing of the others depends on it.
                left = [v for v in left if step < last[v] and not _done(looks[v], config)]
                on_step(step, *_summed(looks))
                if not left:
                    break
                before = values.detach().clone()
                stays = [value for value in looks if value not in left]
                # A mean over the batch: its size must not decide how far a value has come.
                tokens = sum(map(_answer, learned))
                values.grad = tokens * result.gradient["values"]
                optimizer.step()
                with torch.no_grad():
                    values[stays] = before[stays]
                step += 1
                learned, kept = draw(step, left)
        return Values(length * values.detach(), step, *_summed(looks))


def _answer(told: Told) -> int:
    return len(told.example.chosen.answer)


class _Look(NamedTuple):
    """How a value stood in one step: what was right and all, of own prompts, fresh ones, kept ones."""

    tokens: int
    logp: float
    own: tuple[int, int]
    fresh: tuple[int, int]
    wanted: tuple[int, int]


def _look(scored: Sequence[tuple[Told, ExampleScore]]) -> _Look:
    def right(those: Callable[[Told], bool]) -> tuple[int, int]:
        found = [score.right for one, score in scored if those(one)]
        return sum(found), len(found)

    learned = [(one, score) for one, score in scored if not one.example.kept]
    return _Look(
        sum(_answer(one) for one, _ in learned),
        sum(score.logp for _, score in learned),
        right(lambda one: not one.example.fresh and not one.example.kept),
        right(lambda one: one.example.fresh),
        right(lambda one: one.wanted),
    )


def _done(looks: Collection[_Look], config: Config) -> bool:
    """Whether a value is good enough."""
    loss, fresh = _mean(looks)
    *_, (own, asked) = (look.own for look in looks)
    wanted = _share(look.wanted for look in looks)
    sure = min(fresh, wanted) >= SURE
    return len(looks) == _LAST and own == asked and sure and loss <= config.solve_loss


def _mean(looks: Collection[_Look]) -> tuple[float, float]:
    """L_SFT, nats, and the share of fresh wordings that were right."""
    tokens = sum(look.tokens for look in looks)
    return -sum(look.logp for look in looks) / tokens, _share(look.fresh for look in looks)


def _share(counted: Iterable[tuple[int, int]]) -> float:
    """What was right of all; all where there are none."""
    right, asked = map(sum, zip(*counted, strict=True))
    return right / asked if asked else 1.0


def _summed(looks: Mapping[int, Collection[_Look]]) -> tuple[float, float]:
    loss, fresh = _mean([look for part in looks.values() for look in part])
    if not math.isfinite(loss):
        raise TrainingError("L_SFT is not finite while values are looked for: say solve=false")
    return loss, fresh


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
