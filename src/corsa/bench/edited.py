"""What every measure of a benchmark is given: a model after its rounds, and what was edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corsa.answerers import Answerer
from corsa.config import Config
from corsa.metrics import Number
from corsa.models import BaseModel
from corsa.planning import PlannedEdit

Numbers = dict[str, Number]


@dataclass(frozen=True)
class Edited:
    """A model that was edited.

    Attributes:
        base: the model it was.
        updated: the model it is; to measure the base itself, `ModelAnswerer(base)`.
        edits: the edits that are measured, y⁻ settled.
        config: the settings it was edited with.
        data: the folder with the data sets, each in a folder of its own; `None`: from the hub.
    """

    base: BaseModel
    updated: Answerer
    edits: Sequence[PlannedEdit]
    config: Config = field(default_factory=Config)
    data: Path | None = None
