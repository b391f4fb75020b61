"""What the calls of a `Store` give back: frozen, readable without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from corsa.ledger import Round
from corsa.planning import PlannedEdit


class Answer(NamedTuple):
    """A prompt with the answers of base and updated model."""

    prompt: str
    base: str
    updated: str
    round: int


class Export(NamedTuple):
    """A round in the form other programs load.

    Attributes:
        round: which one.
        format: a name in `corsa.export.request.FORMATS`.
        type: what its numbers are written in.
        folder: where it is.
        files: names of what is there.
        checked: what was checked of it; sentences.
    """

    round: int
    format: str
    type: str
    folder: Path
    files: tuple[str, ...]
    checked: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What an update would do.

    Attributes:
        edits: the edits, y⁻ settled, with what the model answers today.
        warnings: what is odd about the user's file.
        seconds: a rough estimate of training and measuring.
        model: the base model's name.
        parent: the round that would be continued.
    """

    edits: tuple[PlannedEdit, ...]
    warnings: tuple[str, ...]
    seconds: float
    model: str
    parent: int


@dataclass(frozen=True)
class Update:
    """A round that was made.

    Attributes:
        round: the round.
        metrics: what was measured.
        generations: every prompt with the replies, as in `generations.jsonl`.
        warnings: what is odd about the user's file.
        seconds: how long its parts took.
    """

    round: Round
    metrics: Mapping[str, Any]
    generations: Sequence[Mapping[str, Any]]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
