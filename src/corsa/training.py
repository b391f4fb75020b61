"""One round of training: examples, optimiser, schedule, and the measurement that ends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corsa import allocator
from corsa.config import Config
from corsa.errors import TrainingError
from corsa.models import Adapter
from corsa.null_space import free, give_back
from corsa.sharpness import global_norm
from corsa.step import Example, ExampleScore, Gradient, StepResult, corsa_step, score_examples

# Visits to each edit before the rate falls in a round of the embedded model, for the first estimate of
# time left: without and with fresh wordings.
_USUAL_VISITS, _USUAL_VARIED = 12, 36
# Share of edits seen right from which on convergence is measured in earnest.
_NEAR = 0.6
# Share of fresh wordings that must be right over so many steps before a round is done.
SURE, _WINDOW = 0.9, 10
# Steps after which freed memory is given back.
_TIDY = 8

# What is left of the rate for a round that began in closed form: little is missing then.
_AFTER_SOLVING = 0.25
# Steps after which earlier edits that came undone are looked at again.
_RELEARNING = 10

# What joins a step: given its number, the indices of the own examples in it, and those of earlier
# edits that came undone.
Joining = Callable[[int, Sequence[int], Sequence[int]], Sequence[Example]]


class StepEvent(NamedTuple):
    """One finished optimiser step, for progress and trackers."""

    step: int
    expected_steps: int
    losses: dict[str, float]
    margin: float | None
    right: int
    edits: int
    learning_rate: float
    gradient_norm: float


@dataclass
class Position:
    """Where a round stands; with adapter and optimiser it is all that a checkpoint needs.

    Attributes:
        step: optimiser steps done.
        decay_from: step at which everything was right and the rate began to fall.
        right: for each example whether it was right when last looked at.
        fresh: for each of the last steps the share of the own edits' fresh wordings that was right.
        held: earlier edits that were right when the round began, as indices; `None` before that look.
        lost: those of them that were wrong when last looked at.
        looked_back: the step of that look.
        solved: how the round began in closed form, if it did.
        history: for each step its losses, mean margin and number of edits right.
    """

    step: int = 0
    decay_from: int | None = None
    right: list[bool] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)
    held: list[int] | None = None
    lost: list[int] = field(default_factory=list)
    looked_back: int = 0
    solved: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class Outcome(NamedTuple):
    """How a round's training ended.

    Attributes:
        steps: optimiser steps.
        converged: every trained answer is the greedy one at the final weights.
        position: the history of losses and margins.
    """

    steps: int
    converged: bool
    position: Position


class RoundTrainer:
    """Trains one adapter on one round's examples until every answer is right, or the cap.

    Right is measured under teacher forcing at the unperturbed weights, end-of-turn included. Fresh
    wordings come once each and are seen where the step is, at φ + ε under SAM. Order and rate depend on
    the step's number alone, so that a round can stop and go on anywhere.

    Args:
        adapter: what is trained; it must be acting.
        examples: the round's own, which decide about convergence.
        config: the settings.
        joining: what joins a step; it may depend on nothing but what it is given. What joins to be
            learned decides about convergence where `positives` is on; what is kept never does.
        earlier: edits of earlier rounds. Those that are right when the round begins must be right
            before it ends, unless it comes to its cap; whether it converged is about its own alone.
        fixed: full names of modules at which the adapter stays as it is, unless it acts nowhere else.
        taken: directions by parameter name that no step takes (`corsa.null_space`).
    """

    def __init__(
        self,
        adapter: Adapter,
        examples: Sequence[Example],
        config: Config,
        joining: Joining | None = None,
        earlier: Sequence[Example] = (),
        fixed: Collection[str] = (),
        taken: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.adapter = adapter
        self.examples = list(examples)
        self.earlier = list(earlier)
        self.joining = joining
        self.config = config
        beginnings = tuple(f"{module}." for module in fixed)
        every = adapter.params
        self.params = {k: p for k, p in every.items() if not k.startswith(beginnings)} or every
        self.taken = dict(taken or {})
        self.optimizer = torch.optim.AdamW(
            self.params.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.position = Position(right=[False] * len(self.examples))
        self.followed: Gradient | None = None
        self._looked: tuple[int, bool] | None = None
        self.steps_per_epoch = math.ceil(len(self.examples) / config.batch_size)
        self.cap = (
            config.epochs * self.steps_per_epoch
            if config.stop == "epochs"
            else config.max_visits * self.steps_per_epoch
        )

    def look(self) -> None:
        """See which earlier edits are right before anything changes; once a round."""
        if self.position.held is None:
            scores = self._measure(self.earlier)
            self.position.held = [i for i, score in enumerate(scores) if score.right]

    def done_already(self) -> bool:
        """Whether nothing is left to train in a round that began in closed form.

        Returns:
            Whether every answer is right, and every earlier one that was: `run` need not be called.
        """
        return self._all_right() and not self._undone()

    def run(self, on_step: Callable[[StepEvent], None], checkpoint: Callable[[], None]) -> Outcome:
        """Train to the end.

        Args:
            on_step: told after every step.
            checkpoint: called after every step, when all state is consistent.

        Returns:
            How it ended.

        Raises:
            TrainingError: if a loss or gradient is not finite.
        """
        try:
            self.look()
            while not self._finished():
                with self.adapter.base.computing_in(self.config.train_dtype):
                    event = self._step()
                on_step(event)
                checkpoint()
                if self.position.step % _TIDY == 0:
                    allocator.give_back()
        finally:
            self.adapter.base.forget_copies()
            allocator.give_back()
        return self.outcome()

    def outcome(self) -> Outcome:
        """How it stands.

        Returns:
            Steps, and whether every answer is right at the weights as they are.
        """
        return Outcome(self.position.step, self._all_right(), self.position)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a checkpoint needs.

        Returns:
            Tensors by name, and plain data for JSON.
        """
        tensors = {f"adapter.{name}": value for name, value in self.adapter.state().items()}
        for name, gradient in (self.followed or {}).items():
            tensors[f"followed.{name}"] = gradient.detach().cpu().clone()
        for name, param in self.params.items():
            for key, value in self.optimizer.state.get(param, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().clone()
        return tensors, asdict(self.position)

    def load_state(self, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Args:
            tensors: as `state` gave them.
            position: likewise.
        """
        self.adapter.load_state(_named("adapter.", tensors))
        if followed := _named("followed.", tensors):
            self.followed = {
                name: followed[name].to(param.device) for name, param in self.params.items()
            }
        for name, param in self.params.items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (value := tensors.get(f"optimizer.{key}.{name}")) is not None:
                    placed = value if key == "step" else value.to(param.device)
                    self.optimizer.state[param][key] = placed.clone()
        self.position = Position(**position)
        self._looked = None

    def _finished(self) -> bool:
        position, config = self.position, self.config
        if not self.examples or position.step >= self.cap:
            return True
        if config.stop == "epochs" or position.decay_from is None:
            return False
        if position.step < position.decay_from + decay_length(self.config, position.decay_from):
            return False
        if self._all_right() and not self._undone():
            return True
        position.decay_from = None  # the last steps undid something: learn on
        return False

    def _all_right(self) -> bool:
        """Whether every answer is right at the weights as they are; looked at once for each step."""
        if self._looked is None or self._looked[0] != self.position.step:
            scores = self._measure(self.examples)
            self._looked = self.position.step, all(score.right for score in scores)
        return self._looked[1]

    def _undone(self) -> bool:
        """Whether an earlier edit came undone, at the weights as they are."""
        position, held = self.position, self.position.held or []
        scores = self._measure([self.earlier[i] for i in held])
        position.lost = [i for i, score in zip(held, scores, strict=True) if not score.right]
        position.looked_back = position.step
        return bool(position.lost)

    def _step(self) -> StepEvent:
        position = self.position
        own = self._order(position.step)
        batch = [self.examples[i] for i in own]
        joined = self.joining(position.step, own, position.lost) if self.joining else ()
        rate = self._learning_rate(position.step)
        again = self.adapter.base.recomputing(on=self.config.recompute)
        with torch.random.fork_rng(), self.adapter.dropout(), again:
            torch.manual_seed(self.config.seed + position.step)
            result = corsa_step(
                self.adapter.base.forward, self.params, batch, self.config, joined, self.followed
            )
        result = result._replace(gradient=free(result.gradient, self.taken))
        scores = dict(zip(own, self._scores(batch, result), strict=True))
        norm = self._check(result)
        self._apply(result.gradient, norm, rate)
        if self.config.sam and self.config.ascent == "lagged":
            self.followed = result.gradient
        worded = zip(joined, result.joined, strict=True)
        self._note(scores, [score.right for example, score in worded if example.fresh])
        position.step += 1
        event = self._event(result, list(scores.values()), rate, norm)
        told = {"margin": event.margin, "right": event.right, **event.losses}
        position.history.append(told | ({"fresh": position.fresh[-1]} if position.fresh else {}))
        return event

    def _scores(self, batch: Sequence[Example], result: StepResult) -> list[ExampleScore]:
        """How the batch stood at φ, looked at again where the step saw it at φ + ε only."""
        # Away from the end a look from φ + ε will do: what is wrong there is hardly right at φ.
        near = sum(self.position.right) + sum(score.right for score in result.scores)
        if result.unmoved or near < _NEAR * (len(self.position.right) + len(batch)):
            return result.scores
        return score_examples(self.adapter.base.forward, batch)

    def _order(self, step: int) -> list[int]:
        """Indices of the round's own examples in a step's batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.examples))
        return [int(i) for i in order[place :: self.steps_per_epoch]]

    def _learning_rate(self, step: int) -> float:
        config, position = self.config, self.position
        rise = min(1.0, (step + 1) / (config.warmup_steps + 1))
        rise *= _AFTER_SOLVING if position.solved else 1.0
        if config.stop == "epochs":
            # The HF Trainer's linear schedule: up over the warm-up, down to zero at the end.
            rise = step / config.warmup_steps if step < config.warmup_steps else 1.0
            fall = (self.cap - step) / max(1, self.cap - config.warmup_steps)
            return config.learning_rate * min(rise, fall)
        fall = 1.0
        if position.decay_from is not None:
            fall = 1 - (step - position.decay_from + 1) / (
                decay_length(self.config, position.decay_from) + 1
            )
        return config.learning_rate * min(rise, fall)

    def _check(self, result: StepResult) -> float:
        norm = global_norm(result.gradient)
        losses = result.losses
        if not all(map(math.isfinite, [norm, *losses.values()])):
            raise TrainingError(
                f"step {self.position.step + 1} is not finite (losses {losses}, gradient norm {norm}): "
                f"lower learning_rate={self.config.learning_rate} or rho={self.config.rho}, or use "
                "dtype=float32"
            )
        return norm

    def _apply(self, gradient: Gradient, norm: float, rate: float) -> None:
        clip = self.config.clip
        scale = min(1.0, clip / norm) if clip and norm > 0 else 1.0
        for name, param in self.params.items():
            param.grad = gradient[name].to(param.dtype) * scale
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # AdamW's step is not its gradient's direction: what is taken is taken out of the step itself.
        before = {k: p.detach().clone() for k, p in self.params.items() if k in self.taken}
        self.optimizer.step()
        give_back(self.params, before, self.taken)
        self.optimizer.zero_grad(set_to_none=True)

    def _note(self, scores: dict[int, ExampleScore], fresh: Sequence[bool]) -> None:
        """Take down what was right; begin to decay once everything is, at the same weights."""
        position = self.position
        for index, score in scores.items():
            position.right[index] = score.right
        if fresh and self.config.sft:  # else nothing teaches them
            position.fresh = [*position.fresh, sum(fresh) / len(fresh)][-_WINDOW:]
        if self.config.stop == "epochs":
            return
        if position.lost and position.step >= position.looked_back + _RELEARNING:
            self._undone()
        if position.decay_from is not None:
            return
        steps = position.step + 1
        if position.fresh and steps + decay_length(self.config, steps) >= self.cap:
            position.decay_from = steps  # a round that gives up does so with a rate that fell
            self._undone()
            return
        if not all(position.right) or not self._sure():
            return
        others = [i for i in range(len(self.examples)) if i not in scores]
        # The batch was measured before this step, the others must be measured now.
        found = self._measure([self.examples[i] for i in others])
        for index, score in zip(others, found, strict=True):
            position.right[index] = score.right
        if all(position.right):
            position.decay_from = steps
            # Some are always wrong while the rate is high: they are relearned while it falls.
            self._undone()

    def _sure(self) -> bool:
        """Whether wordings that were never seen before are right, or none is asked for."""
        fresh = self.position.fresh
        return not fresh or (len(fresh) == _WINDOW and sum(fresh) / _WINDOW >= SURE)

    def _measure(self, examples: Sequence[Example]) -> list[ExampleScore]:
        """Whether answers are right: the old ones beside them would be read for nothing."""
        alone = [example._replace(rejected=None) for example in examples]
        return score_examples(self.adapter.base.forward, alone) if alone else []

    def _event(
        self, result: StepResult, scores: list[ExampleScore], rate: float, norm: float
    ) -> StepEvent:
        position = self.position
        margins = [score.margin for score in scores if score.margin is not None]
        return StepEvent(
            step=position.step,
            expected_steps=self._expected_steps(),
            losses=result.losses,
            margin=sum(margins) / len(margins) if margins else None,
            right=sum(position.right),
            edits=len(position.right),
            learning_rate=rate,
            gradient_norm=norm,
        )

    def _expected_steps(self) -> int:
        position, config = self.position, self.config
        if config.stop == "epochs":
            return self.cap
        if position.decay_from is not None:
            return min(self.cap, position.decay_from + decay_length(config, position.decay_from))
        epoch = self.steps_per_epoch
        usual = max(_usual_visits(config) * epoch, position.step + epoch)
        return min(self.cap, usual + decay_length(config, usual))


def usual_steps(config: Config, edits: int) -> int:
    """Steps that a round takes, for an estimate before it begins.

    Args:
        config: the settings.
        edits: that are trained.

    Returns:
        A guess, unless the number of epochs is fixed.
    """
    epoch = math.ceil(edits / config.batch_size)
    if config.stop == "epochs":
        return config.epochs * epoch
    before = _usual_visits(config) * epoch
    return min(config.max_visits * epoch, before + decay_length(config, before))


def _usual_visits(config: Config) -> int:
    return _USUAL_VARIED if config.positives else _USUAL_VISITS


def decay_length(config: Config, steps: int) -> int:
    """Steps over which the rate falls; wordings need longer than prompts.

    Args:
        config: the settings.
        steps: those that came before.

    Returns:
        Their number.
    """
    return max(config.decay_steps, round(config.decay_share * steps * bool(config.positives)))


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
