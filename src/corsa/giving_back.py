"""Giving one edit back: a new edit of the same fact, to the answer from before."""

from __future__ import annotations

from dataclasses import replace

from corsa.edits import Edit
from corsa.errors import StoreError, UsageError
from corsa.ledger import Ledger
from corsa.matching import is_verbatim
from corsa.planning import PlannedEdit, active
from corsa.sentences import first_sentence


def give_back(ledger: Ledger, id: str) -> Edit:
    """The edit that undoes another: trained like any edit, recorded like any edit.

    Args:
        ledger: the store.
        id: of an edit that holds under the head.

    Returns:
        An edit of the same prompt, its target the answer before: an earlier edit's target, the y⁻ the
        user gave, or the first sentence of what the model answered.

    Raises:
        StoreError: if no edit of that id holds.
        UsageError: if there is no earlier answer that differs.
    """
    history = [p for made in ledger.lineage(ledger.head) for p in made.edits()]
    holding = {planned.edit.id: planned for planned in active(history)}
    if id not in holding:
        there = ", ".join(holding) or "none"
        raise StoreError(f"no edit {id!r} holds under round {ledger.head}: there are {there}")
    planned = holding[id]
    if given_back := planned.edit.metadata.get("gives_back"):
        raise UsageError(
            f"edit {id!r} of round {given_back[0]} was given back in round {planned.round}; to teach it "
            "again, put it into a file"
        )
    target = _answer_before(planned, history)
    if not target or planned.edit.is_right(target):
        raise UsageError(
            f"edit {id!r} changed nothing: before it the model answered {target!r}; leave it as it is"
        )
    edit = planned.edit
    metadata = {**edit.metadata, "gives_back": [planned.round, id]}
    # What followed from the fact follows no more.
    return replace(
        edit, target_new=target, target_old=edit.target_new, portability=(), metadata=metadata
    )


def _answer_before(planned: PlannedEdit, history: list[PlannedEdit]) -> str:
    first = planned
    while earlier := next((p for p in history if p.key == first.repeats), None):
        first = earlier
    if first.old_from in ("given", "earlier target"):
        return first.target_old or ""
    if is_verbatim(first.edit.target_new, first.edit.verbatim):
        return first.reply_before
    return first_sentence(first.reply_before)
