"""Which edits a seed draws, and in which order: the same for every method.

The order of the records under a seed depends on their ids alone, so more rounds or edits only go
further down the same order, and no library decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corsa.edits import Edit
from corsa.errors import UsageError
from corsa.files import sha256_text
from corsa.readers import edits_from_records

# Edits whose old answers are looked up at a time.
_BATCH = 64

Knows = Callable[[Sequence[Edit]], Sequence[bool]]
Unusable = Callable[[Sequence[Edit]], Mapping[str, str]]


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
    edits: Sequence[Edit],
    seed: int,
    rounds: int,
    per_round: int,
    knows: Knows | None = None,
    unusable: Unusable | None = None,
) -> dict[str, Any]:
    """The edits of every round under a seed.

    Args:
        edits: of a data set.
        seed: which draw.
        rounds: how many.
        per_round: edits of each.
        knows: whether the base model gives the old answer of some edits; only those are kept.
        unusable: which of some edits the model cannot take, by id, and why; the next ones of the order
            take their places.

    Returns:
        Plain data: `rounds` as native records, how many were `drawn` and `kept`, `warnings`
        about probes left out because another edit of the draw changes their answer, and what is
        `left_out` because the model cannot take it.

    Raises:
        UsageError: if there are too few.
    """
    order, wanted = shuffled(edits, seed), rounds * per_round
    left_out: dict[str, str] = {}
    while True:
        rest = [edit for edit in order if edit.id not in left_out]
        chosen = rest[:wanted] if knows is None else _known(rest, wanted, knows)
        if len(chosen) < wanted:
            which = " whose old answer the base model gives" if knows else ""
            which += f", {len(left_out)} more the model cannot take" if left_out else ""
            raise UsageError(
                f"{rounds} rounds of {per_round} edits take {wanted}, and there are "
                f"{len(chosen)}{which}: ask for fewer, or widen --from and --to"
            )
        # All together: the longest target says how much room is left for every reply.
        found = unusable(chosen) if unusable else {}
        if not found:
            break
        left_out |= found
    reading = edits_from_records(chosen)
    records = [edit.to_record() for edit in reading.edits]
    return {
        "seed": seed,
        "drawn": order.index(chosen[-1]) + 1,
        "kept": len(records),
        "warnings": list(reading.warnings),
        "left_out": [{"record": f"edit {id}", "why": why} for id, why in left_out.items()],
        "rounds": [records[i : i + per_round] for i in range(0, wanted, per_round)],
    }


def _known(order: Sequence[Edit], wanted: int, knows: Knows) -> list[Edit]:
    """The first edits that are known."""
    known: list[Edit] = []
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        known += [edit for edit, is_known in zip(batch, knows(batch), strict=True) if is_known]
        if len(known) >= wanted:
            break
    return known[:wanted]
