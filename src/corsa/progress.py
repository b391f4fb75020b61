"""How long-running work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Somebody who is told what is going on; the command line draws it, a library user may ignore it."""

    def begin(self, task: str, total: int | None = None) -> None:
        """A task starts; the one before it has ended.

        Args:
            task: what it is, in a few words.
            total: how many units of work it has, if that is known.
        """

    def advance(self, count: int = 1, *, total: int | None = None, note: str = "") -> None:
        """Some units of the current task are done.

        Args:
            count: how many.
            total: a better estimate of the task's total.
            note: how it stands, in a few words.
        """

    def say(self, text: str) -> None:
        """Something the user should read.

        Args:
            text: one line.
        """


class Silent:
    """Nobody listens."""

    def begin(self, task: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, count: int = 1, *, total: int | None = None, note: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
