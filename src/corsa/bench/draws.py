"""Which edits a seed draws, and in which order: the same for every method.

The order of the records under a seed depends on their ids alone, so more rounds or edits only go
further down the same order, and no library decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from corsa.edits import Edit
from corsa.errors import UsageError
from corsa.files import sha256_text
from corsa.readers import edits_from_records

# Edits whose old answers are looked up at a time.
_BATCH = 64

Knows = Callable[[Sequence[Edit]], Sequence[bool]]


def shuffled(edits: Sequence[Edit], seed: int) -> list[Edit]:
    """The records in the order in which a seed draws them.

    Args:
        edits: of a data set.
        seed: any number.

    Returns:
        All of them.
    """
    return sorted(edits, key=lambda edit: sha256_text(f"{seed}\n{edit.id}"))


def draw(
    edits: Sequence[Edit], seed: int, rounds: int, per_round: int, knows: Knows | None = None
) -> dict[str, Any]:
    """The edits of every round under a seed.

    Args:
        edits: of a data set.
        seed: which draw.
        rounds: how many.
        per_round: edits of each.
        knows: whether the base model gives the old answer of some edits; only those are kept.

    Returns:
        Plain data: `rounds` as native records, how many were `drawn` and `kept`, and `warnings`
        about probes left out because another edit of the draw changes their answer.

    Raises:
        UsageError: if there are too few.
    """
    order, wanted = shuffled(edits, seed), rounds * per_round
    chosen, drawn = (order[:wanted], wanted) if knows is None else _known(order, wanted, knows)
    if len(chosen) < wanted:
        which = " whose old answer the base model gives" if knows else ""
        raise UsageError(
            f"{rounds} rounds of {per_round} edits take {wanted}, and there are {len(chosen)}{which}: "
            "ask for fewer, or widen --from and --to"
        )
    reading = edits_from_records(chosen)
    records = [edit.to_record() for edit in reading.edits]
    return {
        "seed": seed,
        "drawn": drawn,
        "kept": len(records),
        "warnings": list(reading.warnings),
        "rounds": [records[i : i + per_round] for i in range(0, wanted, per_round)],
    }


def _known(order: Sequence[Edit], wanted: int, knows: Knows) -> tuple[list[Edit], int]:
    """The first edits that are known, and how many were looked at to find them."""
    known: list[Edit] = []
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        for place, (edit, is_known) in enumerate(zip(batch, knows(batch), strict=True), start + 1):
            known += [edit] if is_known else []
            if len(known) == wanted:
                return known, place
    return known, len(order)
