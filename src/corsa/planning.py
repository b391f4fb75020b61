"""What a round will do with each edit: decided from its history before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from corsa.edits import Edit
from corsa.matching import contains, strip_answer

OldFrom = Literal["given", "elicited", "earlier target", "first round"]


@dataclass(frozen=True)
class PlannedEdit:
    """One edit of a round, its y⁻ settled.

    Attributes:
        round: id of the round it belongs to.
        edit: the edit; its `target_old` is filled, unless the answer is already said.
        old_from: where y⁻ comes from.
        already_said: the model says y⁺ in its reply already: SFT stays, DPO is off for it.
        trained: whether the round trains on it; a repeated edit that is right, and brings nothing new to
            train on, is not.
        supersedes: (round, id) of earlier edits of the same fact that had another target.
        repeats: (round, id) of an earlier edit with the same prompt and target, if any.
        reply_before: what the model answered before the round.
    """

    round: int
    edit: Edit
    old_from: OldFrom
    already_said: bool
    trained: bool = True
    supersedes: tuple[tuple[int, str], ...] = ()
    repeats: tuple[int, str] | None = None
    reply_before: str = ""

    @property
    def key(self) -> tuple[int, str]:
        """Names the edit within its store."""
        return self.round, self.edit.id

    @property
    def target_old(self) -> str | None:
        """y⁻; `None` where there is nothing to prefer the new answer to."""
        return self.edit.target_old

    def to_record(self) -> dict[str, Any]:
        """A line of a round's `edits.jsonl`: the native record, the plan in the column `corsa`.

        Returns:
            A dict for JSON.
        """
        plan = {
            "old_from": self.old_from,
            "already_said": self.already_said,
            "trained": self.trained,
            "supersedes": [list(key) for key in self.supersedes],
            "repeats": list(self.repeats) if self.repeats else None,
            "reply_before": self.reply_before,
        }
        return self.edit.to_record() | {"corsa": plan}


def planned_from_record(round_id: int, edit: Edit, plan: dict[str, Any]) -> PlannedEdit:
    """Read back what `PlannedEdit.to_record` wrote.

    Args:
        round_id: the round it belongs to.
        edit: the native part.
        plan: the column `corsa`.

    Returns:
        The planned edit.
    """
    return PlannedEdit(
        round=round_id,
        edit=edit,
        old_from=plan["old_from"],
        already_said=plan["already_said"],
        trained=plan["trained"],
        supersedes=tuple((r, i) for r, i in plan["supersedes"]),
        repeats=(plan["repeats"][0], plan["repeats"][1]) if plan["repeats"] else None,
        reply_before=plan["reply_before"],
    )


def holding(history: Sequence[PlannedEdit]) -> list[PlannedEdit]:
    """The edits that still hold: all but the superseded. What is measured, each in its own round.

    Args:
        history: all edits of the rounds that led here, oldest first.

    Returns:
        Those that hold, oldest first; a fact that was repeated stands in both of its rounds.
    """
    gone = {key for planned in history for key in planned.supersedes}
    return [planned for planned in history if planned.key not in gone]


def active(history: Sequence[PlannedEdit]) -> list[PlannedEdit]:
    """The edits that still hold, each fact once: what may be replayed, repeated or superseded.

    Args:
        history: all edits of the rounds that led here, oldest first.

    Returns:
        Those that hold, oldest first.
    """
    repeated = {planned.repeats for planned in history if planned.repeats}
    return [planned for planned in holding(history) if planned.key not in repeated]


def plan_edit(
    round_id: int, edit: Edit, history: Sequence[PlannedEdit], reply: str, first_words: str
) -> PlannedEdit:
    """Settle one edit's y⁻ and what it means for earlier edits (method.md, "Edits").

    Args:
        round_id: of the round to come.
        edit: as the user gave it.
        history: all edits of the rounds that led here, oldest first.
        reply: what the current model answers to its prompt.
        first_words: the beginning of that reply, which y⁻ would be.

    Returns:
        The planned edit.
    """
    earlier = [old for old in active(history) if old.edit.same_fact(edit)]
    same = [old for old in earlier if edit.is_right(old.edit.target_new)]
    changed = [old for old in earlier if old not in same]
    prompt = edit.keys[0]
    repeated = [old for old in same if old.edit.keys[0] == prompt]
    plan = PlannedEdit(round_id, edit, "given", already_said=False, reply_before=reply)
    if changed:
        return replace(
            plan,
            edit=replace(edit, target_old=changed[-1].edit.target_new),
            old_from="earlier target",
            already_said=False,
            supersedes=tuple(old.key for old in holding(history) if old.edit.same_fact(edit)),
        )
    if repeated:
        first = repeated[-1]
        return replace(
            plan,
            edit=replace(edit, target_old=first.edit.target_old),
            old_from="first round",
            already_said=first.already_said,
            # More to train on is trained on, whatever the prompt's own answer is.
            trained=not edit.is_right(reply)
            or not {*edit.train_paraphrases} <= {*first.edit.train_paraphrases}
            or not {*edit.keep} <= {*first.edit.keep},
            repeats=first.key,
        )
    if edit.target_old is not None:
        return plan
    # A reply that says the new answer already is no y⁻, and neither is an empty one.
    said = contains(first_words, edit.target_new, edit.verbatim)
    old = None if said or not strip_answer(first_words) else first_words
    return replace(plan, edit=replace(edit, target_old=old), old_from="elicited", already_said=said)
