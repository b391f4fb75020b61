"""What happened to a store, in order: rounds, ways back, and rounds that were never finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from corsa.errors import CorruptError
from corsa.files import unseal
from corsa.ledger import Ledger, Round
from corsa.metrics import Number, headlines


class Entry(NamedTuple):
    """One thing that happened.

    Attributes:
        title: such as "Round 2".
        badge: what is special about it.
        tone: whether that is good news.
        text: what it was.
        at: when; `None` if it is not known.
        numbers: the headlines, for a round.
        on_line: whether it led to the round in use.
    """

    title: str
    badge: str
    tone: str
    text: str
    at: str | None
    numbers: Mapping[str, Number]
    on_line: bool


def happened(ledger: Ledger, rounds: Mapping[int, Round], line: list[int]) -> list[Entry]:
    """All of it, oldest first.

    Args:
        ledger: the store.
        rounds: all its rounds.
        line: ids of those that led to the one in use.

    Returns:
        The entries; unfinished rounds come last.
    """
    entries, known = [], set()
    for event in ledger.journal():
        if event["event"] == "round" and event["round"] in rounds:
            known.add(event["round"])
            entries.append(_round(rounds[event["round"]], event, ledger.head, line))
        elif event["event"] == "rollback":
            text = f"Round {event['to']} was put into use; nothing was deleted."
            if not event["to"]:
                text = "The base model was put into use; nothing was deleted."
            title = f"From round {event['from']} to round {event['to']}"
            entries.append(Entry(title, "put into use", "plain", text, event["at"], {}, False))
    # A process that was killed right after a commit has not told the journal yet.
    entries += [
        _round(made, {}, ledger.head, line) for id, made in rounds.items() if id not in known
    ]
    return [*entries, *_unfinished(ledger, rounds)]


def _round(made: Round, event: Mapping[str, Any], head: int, line: list[int]) -> Entry:
    on_line, missed = made.id in line, event.get("missed") or []
    badge, tone = ("", "plain")
    if made.id == head:
        badge, tone = "in use", "good"
    elif missed:
        badge, tone = "not accepted", "bad"
    elif not on_line:
        badge = "another branch"
    count = len(made.edits())
    text = f"{count} fact{'' if count == 1 else 's'} by {made.record['method']}"
    text += f", continuing round {made.parent}" if made.parent else ", on the base model"
    if missed:
        text += f"; misses {'; '.join(missed)}"
    numbers = headlines(made.metrics())
    return Entry(f"Round {made.id}", badge, tone, text, event.get("created"), numbers, on_line)


def _unfinished(ledger: Ledger, rounds: Mapping[int, Round]) -> list[Entry]:
    """The round that was interrupted last, and those that were put aside for another one."""
    entries = []
    aside = ledger.path / "aside"
    for folder in (*sorted(aside.glob("*")), ledger.pending):
        ticket = _read(folder / "ticket.json")
        if ticket is None or (folder == ledger.pending and ticket["round"] in rounds):
            continue
        plan = _read(folder / "plan.json")
        facts = f"{len(plan['plan'])} facts were planned" if plan else "Nothing was planned yet"
        waiting = folder == ledger.pending
        does = (
            "under way, or interrupted: the command that began it goes on where it stopped"
            if waiting
            else f"it was put into {folder.relative_to(ledger.path)} when another was begun"
        )
        badge = "unfinished" if waiting else "put aside"
        title = f"Round {ticket['round']}"
        entries.append(Entry(title, badge, "plain", f"{facts}; {does}.", None, {}, False))
    return entries


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return unseal(path)
    except CorruptError:
        return None
