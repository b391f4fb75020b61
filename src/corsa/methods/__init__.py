"""The ways to edit a model, one file each, behind one small interface.

A method turns a planned round into an artefact: some files of a kind that only the method reads. The
store keeps them without looking inside, and evaluation talks to the answerer the method makes of them.
To add one: a file here, its kind in `_KINDS` and `method_of_kind`, a name in `corsa.config.METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from corsa.answerers import Answerer
from corsa.config import Config
from corsa.models import BaseModel
from corsa.planning import PlannedEdit
from corsa.progress import Progress
from corsa.training import StepEvent


class Incoming(NamedTuple):
    """The artefact a round starts from."""

    kind: str
    folder: Path


@dataclass(frozen=True)
class Task:
    """One round to be made.

    Attributes:
        base: the model.
        incoming: the parent round's artefact; `None` in a first round.
        plan: the round's edits.
        history: the edits of earlier rounds that still hold, superseded ones left out.
        config: the settings.
        progress: told what goes on.
        on_step: told after every optimiser step.
        workplace: a folder that outlives an interruption, for checkpoints; `None`: none are kept.
    """

    base: BaseModel
    incoming: Incoming | None
    plan: Sequence[PlannedEdit]
    history: Sequence[PlannedEdit]
    config: Config
    progress: Progress
    on_step: Callable[[StepEvent], None]
    workplace: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What a method made.

    Attributes:
        kind: of the artefact.
        answerer: the edited model.
        save: writes the artefact's files into a folder.
        close: frees what the answerer holds.
        training: what is worth knowing of how it was made; plain data, no times.
    """

    kind: str
    answerer: Answerer
    save: Callable[[Path], None]
    close: Callable[[], None]
    training: Mapping[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """One way to edit a model."""

    kind: str

    def edit(self, task: Task) -> Outcome:
        """Make a round's artefact.

        Args:
            task: the round.

        Returns:
            What was made.
        """
        ...

    def open(self, base: BaseModel, folder: Path) -> tuple[Answerer, Callable[[], None]]:
        """Read an artefact back.

        Args:
            base: the model it belongs to.
            folder: where its files are.

        Returns:
            The edited model, and what frees it.
        """
        ...


# What a method makes; all others are settings of the adapter.
_KINDS = {"ft-l": "matrix", "in-context": "context", "retrieval": "retrieval"}


def method_for(config: Config) -> Method:
    """The method that a config names.

    Args:
        config: the settings.

    Returns:
        The method.
    """
    return method_of_kind(_KINDS.get(config.method, "lora"))


def method_of_kind(kind: str) -> Method:
    """The method that reads artefacts of a kind.

    Args:
        kind: as in `Outcome.kind`.

    Returns:
        The method.
    """
    from corsa.methods.ft_l import FtL
    from corsa.methods.in_context import InContext
    from corsa.methods.lora import Lora
    from corsa.methods.retrieval import Retrieval

    kinds: dict[str, Callable[[], Method]] = {
        "lora": Lora,
        "matrix": FtL,
        "context": InContext,
        "retrieval": Retrieval,
    }
    return kinds[kind]()
