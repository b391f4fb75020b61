"""One loaded model at work on one store: plan a round, make it, measure it, commit it."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from corsa.acceptance import Condition, missed
from corsa.answerers import Answerer, RememberingAnswerer
from corsa.beginning import usual_beginning
from corsa.clock import Clock
from corsa.company import usual_tokens
from corsa.config import Config
from corsa.edits import Edit
from corsa.errors import BadEditsError, Fault, NotAcceptedError, UsageError
from corsa.evaluation import (
    REPLY_TOKENS,
    drift_questions,
    questions_of,
    reply_length,
    reply_length_of,
    unusable,
)
from corsa.examination import (
    FOREIGN_SYSTEM,
    Examiner,
    besides,
    check_report,
    round_metrics,
    versions,
)
from corsa.ledger import Ledger, Round
from corsa.matching import is_verbatim
from corsa.methods import Incoming, Outcome, Task, method_for, method_of_kind
from corsa.metrics import mean
from corsa.models import BaseModel
from corsa.naming import with_subject
from corsa.packing import shared_beginning
from corsa.pending import Pending
from corsa.planning import PlannedEdit, active, holding, plan_edit
from corsa.progress import Progress
from corsa.readers import Reading
from corsa.results import Update
from corsa.training import usual_steps
from corsa.values import SENTENCE
from corsa.variations import Edited

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from corsa.training import StepEvent

logger = logging.getLogger(__name__)

# y⁻ is at most this many tokens of what the model answers today.
_OLD_TOKENS = 16


class Session:
    """A base model loaded in one precision, on one device.

    Args:
        model: the base model.
        ledger: the store; `None` before its first round.
        config: the settings of this call.
        progress: told what goes on.
    """

    def __init__(
        self, model: BaseModel, ledger: Ledger | None, config: Config, progress: Progress
    ) -> None:
        self.model = model
        self.base = RememberingAnswerer(model)
        self._loaded_as = _loading(config)
        self.again(ledger, config, progress)

    def serves(self, config: Config) -> bool:
        """Whether the model is loaded as a config wants it.

        Args:
            config: the settings of another call.

        Returns:
            Whether dtype, device, attention and packing are the same.
        """
        return self._loaded_as == _loading(config)

    def again(self, ledger: Ledger | None, config: Config, progress: Progress) -> Session:
        """Turn to another call.

        Args:
            ledger: the store.
            config: the settings of this call.
            progress: told what goes on.

        Returns:
            Itself.
        """
        self.ledger = ledger
        self.config = config
        self.progress = progress
        return self

    def model_record(self) -> dict[str, Any]:
        """The base model as `store.json` names it.

        Returns:
            Name, revision and hash.
        """
        source = self.model.source
        return {"name": source.name, "revision": source.revision, "sha256": source.sha256}

    def check_edits(self, edits: Sequence[Edit]) -> None:
        """Refuse edits the model cannot take, before anything is trained or written.

        Args:
            edits: the edits of a round.

        Raises:
            BadEditsError: if a prompt and its answer are longer than the model's context, or its chat
                template does not write an answer as it is.
        """
        found = unusable(self.model, edits)
        if faults := [Fault(f"edit {edit.id}", what) for edit, what in found]:
            raise BadEditsError(faults)

    def check_prompts(self, prompts: Sequence[str], room: int, system: str | None) -> None:
        """Refuse questions the model cannot read.

        Args:
            prompts: the questions.
            room: tokens that a reply may take.
            system: a system prompt in place of the template's own.

        Raises:
            UsageError: if a question and its reply are longer than the model's context.
        """
        limit = self.model.context_length
        if limit is None:
            return
        for prompt in prompts:
            used = len(self.model.chat.prompt_ids(prompt, system)) + room
            if used > limit:
                raise UsageError(
                    f"the prompt {prompt[:40]!r}… with room for a reply takes {used} tokens and "
                    f"{self.model.source.name} reads {limit}: shorten it"
                )

    def check_parent(self) -> None:
        """Refuse a method that cannot go on from the round in use, before anything is written.

        Raises:
            UsageError: if that round's artefact is of another kind.
        """
        head = 0 if self.ledger is None else self.ledger.head
        if self.ledger is None or not head:
            return
        kind = self.ledger.round(head).kind
        if kind != method_for(self.config).kind:
            raise UsageError(
                f"round {head} holds a {kind!r} artefact, which method={self.config.method} cannot "
                "continue: use the method it was made with, or a new store"
            )

    @contextmanager
    def answerer(self, round: Round) -> Iterator[Answerer]:
        """The model after a round.

        Args:
            round: the round.

        Yields:
            Who answers as of that round.
        """
        answerer, close = method_of_kind(round.kind).open(self.model, round.folder)
        try:
            yield answerer
        finally:
            close()

    @contextmanager
    def current(self, round_id: int | None = None) -> Iterator[Answerer]:
        """The model as it is now: after the head's round, or the base model.

        Args:
            round_id: as of that round instead; 0: the base model.

        Yields:
            Who answers.
        """
        if round_id is None:
            round_id = 0 if self.ledger is None else self.ledger.head
        if self.ledger is None or round_id == 0:
            yield self.base
            return
        with self.answerer(self.ledger.round(round_id)) as answerer:
            yield answerer

    def history(self) -> list[PlannedEdit]:
        """The edits of all rounds that led to the head, oldest first.

        Returns:
            The planned edits.
        """
        if self.ledger is None:
            return []
        return [p for r in self.ledger.lineage(self.ledger.head) for p in r.edits()]

    def plan(self, edits: Sequence[Edit], round_id: int | None = None) -> list[PlannedEdit]:
        """Settle y⁻ of every edit, asking the model as it is now.

        Args:
            edits: the edits of a round.
            round_id: the round they will belong to.

        Returns:
            One planned edit each.
        """
        if round_id is None:
            round_id = 1 if self.ledger is None else self.ledger.next_id()
        history = self.history()
        self.progress.begin("asking what the model says today", len(edits))
        with self.current() as answerer:
            prompts = [edit.prompt for edit in edits]
            length = reply_length_of(self.model, edits)
            replies = answerer.answers(prompts, length, progress=self.progress)
        return [
            plan_edit(
                round_id,
                edit,
                history,
                reply.text,
                self._outdated(edit, reply.text),
            )
            for edit, reply in zip(edits, replies, strict=True)
        ]

    def _outdated(self, edit: Edit, reply: str) -> str:
        """What of a reply is taken for y⁻: its beginning, or all of it against an answer of many lines.

        Two programs begin alike; the first words of one would be preferred to nothing.

        Returns:
            The text.
        """
        if is_verbatim(edit.target_new, edit.verbatim):
            return reply
        return self.model.chat.first_words(reply, _OLD_TOKENS)

    def estimate(self, plan: Sequence[PlannedEdit]) -> float:
        """Seconds that a round would take, from the tokens it moves and this machine's speed today.

        Args:
            plan: the round.

        Returns:
            A rough number: how many steps it will be is a guess.
        """
        trained = [p for p in plan if p.trained]
        seconds = 0.0
        if trained and self.config.trains:
            seconds += self._seconds_of_training(trained)
        # Of earlier rounds prompts and paraphrases are asked again.
        earlier = [(p.edit.prompt, *p.edit.paraphrases) for p in holding(self.history())]
        asked = sum(len(questions_of(p)) for p in plan) + sum(map(len, earlier))
        if self.config.drift:
            edited = Edited(with_subject(p.edit) for p in plan)
            asked += len(drift_questions())
            asked += sum(len(besides(p.round, p.edit, edited)) for p in plan)
        return seconds + asked * self._seconds_per_reply()

    def _seconds_of_training(self, trained: Sequence[PlannedEdit]) -> float:
        """What can be begun in closed form is done then, mostly; the rest is trained step by step."""
        config = self.config
        token, per_step, lengths = self._usual_costs(trained)
        long = [p for p in trained if self._tokens(p) > SENTENCE or not config.solve]
        examples = sum(1 + len(p.edit.train_paraphrases) for p in long)
        seconds = usual_steps(config, examples) * per_step if long else 0.0
        short = len(trained) - len(long)
        return seconds + token * usual_beginning(config, short, *lengths)

    def _tokens(self, planned: PlannedEdit) -> int:
        return len(self.model.chat.exchange(planned.edit.prompt, planned.edit.target_new).answer)

    def _usual_costs(
        self, trained: Sequence[PlannedEdit]
    ) -> tuple[float, float, tuple[float, float]]:
        """A forward pass over some of its edits is timed, and the rest is counted in its tokens.

        Returns:
            Seconds for a token, and for a step; the usual lengths of prompt and answer, in tokens.
        """
        config = self.config
        exchanges = [
            self.model.chat.exchange(p.edit.prompt, p.edit.target_new)
            for p in trained[: config.batch_size]
        ]
        shared = shared_beginning([self.model.chat.prompt_ids(""), *(x.prompt for x in exchanges)])
        own = [(len(x.prompt) - shared, len(x.answer)) for x in exchanges]
        with self.model.computing_in(config.train_dtype):
            self.model.forward.score(exchanges[:1])  # the first pass pays for what is made once
            start = time.perf_counter()
            self.model.forward.score(exchanges)
            once = time.perf_counter() - start
        self.model.forget_copies()
        token = once / (shared + sum(map(sum, own)))
        prompt, answer = (sum(part) / len(own) for part in zip(*own, strict=True))
        lengths = prompt, answer
        joining = usual_tokens(config, len(exchanges), len(holding(self.history())), *lengths)
        # One forward is a third of a pass with its backward; DPO doubles answers and backwards, an
        # exact ascent all of it.
        passes = 3 * (2 if config.sam and config.ascent == "exact" else 1)
        learned = once / token * (2 if config.dpo else 1) + joining.learned
        return token, token * (passes * (learned + joining.kept) + joining.kept), lengths

    def _seconds_per_reply(self) -> float:
        start = time.perf_counter()
        RememberingAnswerer(self.model).answers(["Say something.", "What is this?"], 8)
        return (time.perf_counter() - start) / 2 * (REPLY_TOKENS / 8) / 3

    def make_round(
        self,
        ledger: Ledger,
        reading: Reading,
        trackers: Sequence[GeneralTracker],
        conditions: Sequence[Condition] = (),
        *,
        discard: bool = False,
        in_full: bool = False,
    ) -> Update:
        """Plan, train, measure and commit one round; the caller holds the store's lock.

        Args:
            ledger: the store.
            reading: the edits, with the warnings about them.
            trackers: accelerate trackers.
            conditions: what the round must reach to be put into use.
            discard: remove interrupted rounds of other edits instead of putting them aside.
            in_full: measure and sum up all edits that hold, as `check` does.

        Returns:
            The round.

        Raises:
            NotAcceptedError: if it does not reach that; it is kept, the head stays.
        """
        self.ledger = ledger
        self.check_parent()
        pending = Pending(ledger, self.config, reading.edits)
        clock = Clock(pending.folder)
        if (made := pending.finished()) is not None:
            clock.take_up()
            self.progress.say(f"round {made.id} had been finished before the interruption")
        else:
            pending.begin(self.progress, discard=discard)
            clock.take_up()
            with clock.running():
                made = self._new_round(ledger, pending, reading, trackers, clock, in_full=in_full)
        misses = missed(conditions, made.metrics())
        pending.finish(made, clock.seconds, _peak_bytes(self.model), misses)
        if misses:
            raise NotAcceptedError(
                f"round {made.id} misses {'; '.join(misses)}: it is kept in {made.folder} and the "
                f"head is still round {made.parent}; put it into use all the same with 'corsa "
                f"rollback {made.id}'"
            )
        return _update(made, reading.warnings, clock.seconds)

    def _new_round(
        self,
        ledger: Ledger,
        pending: Pending,
        reading: Reading,
        trackers: Sequence[GeneralTracker],
        clock: Clock,
        *,
        in_full: bool,
    ) -> Round:
        plan = pending.plan(lambda round_id: self.plan(reading.edits, round_id))
        clock.lap("plan")
        parent, history = ledger.head, active(self.history())
        outcome = self._edit(plan, history, pending.folder, trackers)
        try:
            clock.lap("train")
            examiner = self._examiner(ledger.lineage(parent))
            numbers, scores = examiner.examine(pending.id, plan, outcome.answerer, in_full=in_full)
            clock.lap("measure")
            return ledger.commit(
                pending.id,
                parent,
                self._record(outcome),
                plan,
                round_metrics(numbers, scores, plan, outcome.training),
                [score.to_record() for score in scores],
                outcome.save,
            )
        finally:
            outcome.close()

    def check(self, round: Round, system: str | None) -> dict[str, Any]:
        """Measure every edit of every round under one round's model.

        Args:
            round: the round.
            system: a system prompt in place of the template's own; without one, prompts and
                paraphrases are measured under a foreign system prompt, too.

        Returns:
            Plain data.
        """
        assert self.ledger is not None
        line = self.ledger.lineage(round.id)
        examiner = self._examiner(line[:-1])
        with self.answerer(round) as answerer:
            numbers, scores = examiner.examine(
                round.id, round.edits(), answerer, system, in_full=True
            )
            foreign = None if system is not None else self._foreign(line, answerer)
        history = [p for r in line for p in r.edits()]
        return check_report(round.id, numbers, scores, history, foreign)

    def _foreign(self, line: Sequence[Round], answerer: Answerer) -> dict[str, Any] | None:
        """Reliability and generality under a system prompt the edits were not trained under."""
        standing = holding([p for r in line for p in r.edits()])
        prompts = [
            (q.prompt, q.kind, p.edit)
            for p in standing
            for q in questions_of(p)
            if q.kind in ("edit", "paraphrase")
        ]
        self.progress.begin("asking under a foreign system prompt", len(prompts))
        try:
            length = reply_length(self.model, [q for p in standing for q in questions_of(p)])
            replies = answerer.answers(
                [prompt for prompt, _, _ in prompts], length, FOREIGN_SYSTEM, self.progress
            )
        except UsageError:
            return None  # the model's template has no place for one
        right = [
            (kind, edit.is_right(reply.text))
            for (_, kind, edit), reply in zip(prompts, replies, strict=True)
        ]
        return {
            "system": FOREIGN_SYSTEM,
            "reliability": mean(ok for kind, ok in right if kind == "edit"),
            "generality": mean(ok for kind, ok in right if kind == "paraphrase"),
        }

    def _examiner(self, line: Sequence[Round]) -> Examiner:
        return Examiner(self.model, self.base, line, self.config, self.progress, self.answerer)

    def _edit(
        self,
        plan: list[PlannedEdit],
        history: list[PlannedEdit],
        workplace: Path,
        trackers: Sequence[GeneralTracker],
    ) -> Outcome:
        assert self.ledger is not None
        incoming = None
        if head := self.ledger.head:
            parent = self.ledger.round(head)
            incoming = Incoming(parent.kind, parent.folder)

        def on_step(event: StepEvent) -> None:
            values = {f"loss/{name}": value for name, value in event.losses.items()} | {
                "right": event.right,
                "learning_rate": event.learning_rate,
                "gradient_norm": event.gradient_norm,
            }
            if event.margin is not None:
                values["margin"] = event.margin
            for tracker in trackers:
                tracker.log(values, step=event.step)

        task = Task(
            self.model, incoming, plan, history, self.config, self.progress, on_step, workplace
        )
        return method_for(self.config).edit(task)

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "artefact": {"kind": outcome.kind},
            "method": self.config.method,
            "config": self.config.to_dict(),
            "seed": self.config.seed,
            "model": self.model_record(),
            "versions": versions(),
        }


def _update(made: Round, warnings: tuple[str, ...], seconds: Mapping[str, float]) -> Update:
    return Update(made, made.metrics(), made.generations(), warnings, seconds)


def _loading(config: Config) -> tuple[str, ...]:
    return (config.dtype, config.device, config.attention, config.packing)


def _peak_bytes(model: BaseModel) -> int:
    if model.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(model.device))
    import resource

    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
