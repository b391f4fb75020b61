"""Measures beside those of every round, taken once after a run's last round: `--extras NAME,NAME=FILE`.

To add one: a function from `Finished` to numbers by name, and a line in `EXTRAS`. The names become rows
of the tables and columns of nothing else; one that the store measures already is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corsa.answerers import Answerer
from corsa.config import Config
from corsa.errors import UsageError
from corsa.metrics import Number
from corsa.models import BaseModel
from corsa.planning import PlannedEdit
from corsa.progress import Progress


@dataclass(frozen=True)
class Finished:
    """A run after its last round; the edited model is open while it is measured.

    Attributes:
        base: the model.
        before: who answers with the base model alone; it remembers what it answered.
        after: who answers as edited. Of a trained method a `ModelAnswerer`, whose `adapter` names
            the adapter in `base`.
        edits: the edits that hold, oldest round first, y⁻ settled.
        config: the settings of the run.
        progress: told what goes on.
        data: the file given with `NAME=FILE`.
    """

    base: BaseModel
    before: Answerer
    after: Answerer
    edits: Sequence[PlannedEdit]
    config: Config
    progress: Progress
    data: Path | None = None


Extra = Callable[[Finished], Mapping[str, Number]]

EXTRAS: dict[str, Extra] = {}


def parse_extras(text: str) -> dict[str, str | None]:
    """Read `es,wikitext=wiki.test.tokens`.

    Args:
        text: names, some with a file.

    Returns:
        The file by name.

    Raises:
        UsageError: if there is no measure of that name.
    """
    named = (part.strip().partition("=") for part in text.split(",") if part.strip())
    extras = {name: file or None for name, _, file in named}
    for name in extras:
        if name not in EXTRAS:
            there = ", ".join(EXTRAS) or "none yet"
            raise UsageError(f"there is no extra measure {name!r}: there are {there}")
    return extras
