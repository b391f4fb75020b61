"""The demo: real facts that the embedded model has wrong or outdated, taught round after round."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from corsa.ledger import Ledger
from corsa.store import Store


def demo_rounds() -> list[list[dict[str, Any]]]:
    """The packaged facts; docs/demo-facts.md says which were dropped, and why.

    Returns:
        One list of native records per round.
    """
    text = resources.files("corsa").joinpath("data/demo.jsonl").read_text("utf-8")
    records = [json.loads(line) for line in text.split("\n") if line]
    last = max(record["round"] for record in records)
    return [[r for r in records if r["round"] == number] for number in range(1, last + 1)]


def _is_demo(ledger: Ledger) -> bool:
    """Whether a store's first round is the demo's: nobody else's store is added to."""
    mine = {record["id"] for record in demo_rounds()[0]}
    return {planned.edit.id for planned in ledger.round(1).edits()} == mine


def demo_store(out: Path, rounds: int) -> Store:
    """Where the demo goes on: an unfinished one in that folder, or a new one beside a finished one.

    Args:
        out: the folder the user named.
        rounds: how many rounds make it finished.

    Returns:
        The store.
    """
    number = 1
    while True:
        folder = out if number == 1 else out.with_name(f"{out.name}-{number}")
        if not (folder / "store.json").exists():
            return Store.open(folder)
        ledger = Ledger(folder)
        if not ledger.ids() or (ledger.head < rounds and _is_demo(ledger)):
            return Store.open(folder)
        number += 1
