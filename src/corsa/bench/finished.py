"""What every further measure is given: a run after its last round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corsa.answerers import Answerer, ModelAnswerer
from corsa.config import Config
from corsa.metrics import Number
from corsa.models import BaseModel
from corsa.planning import PlannedEdit
from corsa.progress import Progress

if TYPE_CHECKING:
    from corsa.bench.code.options import Programs

Numbers = dict[str, Number]


@dataclass(frozen=True)
class Finished:
    """A run after its last round; the edited model is open while it is measured.

    Attributes:
        base: the model.
        before: who answers with the base model alone; it remembers what it answered.
        after: who answers as edited.
        edits: the edits that hold, oldest round first, y⁻ settled.
        config: the settings of the run.
        progress: told what goes on.
        data: the file given with `NAME=FILE`.
        programs: where programs are run; there for those that run some.
    """

    base: BaseModel
    before: Answerer
    after: Answerer
    edits: Sequence[PlannedEdit]
    config: Config
    progress: Progress
    data: Path | None = None
    programs: Programs | None = None

    @property
    def adapter(self) -> str | None:
        """What acts in `base` as edited; `None` where the method changed no weights."""
        return self.after.adapter if isinstance(self.after, ModelAnswerer) else None
