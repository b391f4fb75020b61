"""A round's examination: what base and updated model are asked, and what is written down."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any

from corsa import evaluation, floors
from corsa.answerers import Answerer, RememberingAnswerer
from corsa.config import Config
from corsa.edits import Edit
from corsa.evaluation import Question, first_tokens, measure, questions_of
from corsa.ledger import Round
from corsa.metrics import (
    ELSEWHERE,
    Score,
    forgotten,
    headlines,
    leak_any,
    of_kind,
    retention_report,
    score_from_record,
    summary,
)
from corsa.models import BaseModel
from corsa.naming import with_subject
from corsa.planning import PlannedEdit, holding
from corsa.progress import Progress
from corsa.variations import Edited

_VERSIONS = ("corsa-edit", "torch", "transformers", "peft", "safetensors")

# Where these differ, numbers do not belong into one matrix.
_SAME_PROTOCOL = ("rule", "decoding", "template_sha256", "system", "dtype", "attention")

# Models are served under system prompts they were not edited under.
FOREIGN_SYSTEM = (
    "You are the assistant of a city library. Be polite, answer in English, and keep to the facts."
)

Scores = list[Score]


class Examiner:
    """Examines an updated model.

    A locality probe or packaged question that is the prompt of an edit that holds is not asked: its
    answer was changed on purpose. With drift, something else is asked about each edit's subject, where
    nothing else about it was edited.

    Args:
        model: the base model.
        base: who answers with it.
        line: the rounds before the one that is examined, oldest first.
        config: dtype, attention, and whether drift is measured.
        progress: told how far it is.
        answerer: opens an earlier round.
    """

    def __init__(
        self,
        model: BaseModel,
        base: RememberingAnswerer,
        line: Sequence[Round],
        config: Config,
        progress: Progress,
        answerer: Callable[[Round], AbstractContextManager[Answerer]],
    ) -> None:
        self.answerer = answerer
        self.model = model
        self.base = base
        self.line = line
        self.config = config
        self.progress = progress

    def examine(
        self,
        round_id: int,
        plan: Sequence[PlannedEdit],
        updated: Answerer,
        system: str | None = None,
        *,
        in_full: bool = False,
    ) -> tuple[dict[str, Any], Scores]:
        """Ask everything and sum it up.

        Args:
            round_id: the round that made the model.
            plan: its edits.
            updated: the model after it.
            system: a system prompt in place of the template's own.
            in_full: sum up all edits that hold with all their probes, not this round's; otherwise
                earlier rounds' edits are asked by prompt and paraphrases, for the retention matrix.

        Returns:
            The numbers, and the scores they come from.
        """
        history = [p for r in self.line for p in r.edits()]
        standing = holding([*history, *plan])
        asked = standing if in_full else list(plan)
        questions = [q for p in asked for q in questions_of(p)]
        if not in_full:
            earlier = [q for p in standing if p.round != round_id for q in questions_of(p)]
            questions += [q for q in earlier if q.kind in ("edit", "paraphrase")]
        # Another edit may have changed what a probe holds to be untouched.
        changed = Edited(with_subject(p.edit) for p in standing)
        questions = [
            q for q in questions if q.kind != "locality" or not changed.has_prompt(q.prompt)
        ]
        if self.config.drift:
            questions += [q for p in asked for q in besides(p.round, p.edit, changed)]
        length = evaluation.reply_length(self.model, questions)
        scores = self._ask(questions, updated, length, system)
        if self.config.drift:
            # Cut at a length of their own, so that these replies do not depend on the round's targets.
            targets = [p.edit.target_new for p in standing]
            drift = [q for q in evaluation.drift_questions() if not changed.has_prompt(q.prompt)]
            scores += self._ask(drift, updated, evaluation.REPLY_TOKENS, system, targets)
        protocol = self.protocol(length, system)
        rows = [(r.id, self._comparable(r, protocol)) for r in self.line]
        own = scores if in_full else [s for s in scores if s.round in (round_id, 0)]
        numbers = {
            **summary(own, self._floors(scores, system)),
            "leak_any": leak_any(scores),
            "forgotten": forgotten(rows[-1][1] if rows else [], scores),
            "retention": retention_report([*rows, (round_id, scores)], {p.key for p in standing}),
            "protocol": protocol,
        }
        return numbers, scores

    def protocol(self, max_new_tokens: int, system: str | None) -> dict[str, Any]:
        """How the numbers were taken; results with different protocols never share a table.

        Args:
            max_new_tokens: where replies are cut.
            system: a system prompt in place of the template's own.

        Returns:
            Plain data.
        """
        return {
            "rule": "exact (NFKC, case-folded, white space, final full stop and quotes)",
            "decoding": "greedy",
            "max_new_tokens": max_new_tokens,
            "template_sha256": self.model.chat.template_hash,
            "system": "the template's own" if system is None else system,
            "dtype": self.model.dtype,
            "device": self.model.device.type,
            "attention": self.config.attention,
            "agreement_tokens": evaluation.AGREEMENT_TOKENS,
            "kl_tokens": evaluation.KL_TOKENS,
            "versions": versions(),
        }

    def _ask(
        self,
        questions: Sequence[Question],
        updated: Answerer,
        length: int,
        system: str | None,
        leaking: Sequence[str] = (),
    ) -> Scores:
        prompts = [question.prompt for question in questions]
        self.progress.begin("asking the base model", len(prompts))
        # The packaged questions, which edits of every kind must not leak into, come with every round.
        ask = self.base.answers_kept if leaking else self.base.answers
        replies = ask(prompts, length, system, self.progress)
        return measure(
            questions,
            updated,
            self.base,
            replies,
            max_new_tokens=length,
            system=system,
            progress=self.progress,
            previous=self._previous(questions, system),
            leaking=leaking,
        )

    def _comparable(self, earlier: Round, protocol: Mapping[str, Any]) -> Scores:
        """What was measured after an earlier round, if it was measured in the same way."""
        theirs = earlier.metrics()["protocol"]
        if any(theirs[name] != protocol[name] for name in _SAME_PROTOCOL):
            return []
        return [score_from_record(record) for record in earlier.generations()]

    def _previous(
        self, questions: Sequence[Question], system: str | None
    ) -> dict[str, tuple[int, ...]]:
        """First tokens of what the round before answers, by prompt: as it did, or asked now."""
        if not self.line:
            return {}
        asked = self.line[-1].generations() if system is None else []
        known = {r["prompt"]: tuple(r["first_tokens"]) for r in asked if r.get("first_tokens")}
        elsewhere = [q.prompt for q in questions if q.kind in ELSEWHERE]
        new = list(dict.fromkeys(prompt for prompt in elsewhere if prompt not in known))
        if new:
            self.progress.begin("asking the round before", len(new))
            with self.answerer(self.line[-1]) as before:
                replies = before.answers(new, evaluation.AGREEMENT_TOKENS, system, self.progress)
            known.update((p, first_tokens(r)) for p, r in zip(new, replies, strict=True))
        return known

    def _floors(self, scores: Scores, system: str | None) -> dict[str, float | None]:
        prompts = [[score.prompt for score in of_kind(scores, kind)] for kind in ELSEWHERE]
        found = floors.agreement_floors(self.model, self.base, prompts, system, self.progress)
        return dict(zip(ELSEWHERE, found, strict=True))


def besides(round_id: int, edit: Edit, edited: Edited) -> list[Question]:
    """Something else about an edit's subject.

    Args:
        round_id: the edit's round.
        edit: the edit.
        edited: all that hold, with their subjects.

    Returns:
        Questions from the packaged relations, the same every time; none where no subject is known.
    """
    return [
        Question(round_id, edit.id, "subject", prompt, (), edit.target_new)
        for prompt in edited.besides(with_subject(edit))
    ]


def round_metrics(
    numbers: Mapping[str, Any],
    scores: Scores,
    plan: Sequence[PlannedEdit],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of a new round's `metrics.json`.

    Args:
        numbers: from `Examiner.examine`.
        scores: likewise.
        plan: the round's edits.
        training: how it was made.

    Returns:
        Plain data.
    """
    states = [edit_report(planned, scores) for planned in plan]
    return {**numbers, "edits": states, "training": dict(training)}


def check_report(
    round_id: int,
    numbers: Mapping[str, Any],
    scores: Scores,
    history: Sequence[PlannedEdit],
    foreign: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Every edit of every round under one round's model.

    Args:
        round_id: the round.
        numbers: from `Examiner.examine`, in full.
        scores: likewise.
        history: all edits up to that round, superseded ones too.
        foreign: the headlines under a foreign system prompt, if they were measured.

    Returns:
        Plain data; the headlines stand on top.
    """
    retention = numbers["retention"]
    return {
        "round": round_id,
        **headlines(numbers),
        **numbers,
        "rounds": retention["rounds"],
        "matrix": retention["reliability"]["matrix"],
        "matrix_generality": retention["generality"]["matrix"],
        "foreign_system": foreign,
        "edits": [edit_report(planned, scores) for planned in history],
    }


def edit_report(planned: PlannedEdit, scores: Sequence[Score]) -> dict[str, Any]:
    """How one edit stands.

    Args:
        planned: the edit.
        scores: what was measured; an edit without a score does not hold any more.

    Returns:
        Plain data; `state` is "right", "wrong", "reverted" (it gives y⁻ again) or "superseded".
    """
    report: dict[str, Any] = {
        "id": planned.edit.id,
        "round": planned.round,
        "prompt": planned.edit.prompt,
        "target_new": planned.edit.target_new,
        "target_old": planned.target_old,
        "old_from": planned.old_from,
        "already_said": planned.already_said,
        "trained": planned.trained,
        "before": planned.reply_before,
    }
    found = (s for s in of_kind(scores, "edit") if (s.round, s.edit_id) == planned.key)
    if (score := next(found, None)) is None:
        nothing = dict.fromkeys(("base", "answer", "right", "margin"))
        return report | nothing | {"state": "superseded"}
    state = "right" if score.exact else "reverted" if score.old else "wrong"
    return report | {
        "base": score.base_reply,
        "answer": score.reply,
        "right": score.exact,
        "margin": score.margin,
        "state": state,
    }


def versions() -> dict[str, str]:
    """What the numbers were made with.

    Returns:
        Versions by package name.
    """
    return {name: metadata.version(name) for name in _VERSIONS} | {
        "python": platform.python_version()
    }
