"""How far a benchmark is, and how long it will still take: told with everything a round tells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from corsa.progress import Progress
from corsa.words import roughly


class Schedule:
    """Progress of a round, told as a part of all rounds.

    Args:
        inner: who is told.
        left: rounds still to be made, by method.
        seconds: what rounds made before took, by method.
    """

    def __init__(
        self, inner: Progress, left: Mapping[str, int], seconds: Mapping[str, list[float]]
    ) -> None:
        self._inner = inner
        self._left = dict(left)
        self._seconds = {method: list(taken) for method, taken in seconds.items()}
        self._all = sum(self._left.values())
        self._where = ""

    @contextmanager
    def run(self, method: str, rounds: int) -> Iterator[None]:
        """A run is made inside the block; however it ends, nothing of it is left then.

        Args:
            method: the run's.
            rounds: of the run.

        Yields:
            Nothing.
        """
        left = self._left[method] - rounds
        yield
        self._left[method], self._where = left, ""

    def skip(self, method: str, rounds: int) -> None:
        """Some rounds of an interrupted run are there already.

        Args:
            method: the run's.
            rounds: how many.
        """
        self._left[method] -= rounds
        self._all -= rounds

    @contextmanager
    def round(self, method: str, name: str) -> Iterator[None]:
        """One round is made inside the block.

        Args:
            method: its method.
            name: what it is called.

        Yields:
            Nothing.
        """
        done = self._all - sum(self._left.values())
        self._where = f"{name} ({done} of {self._all} rounds done{self._time_left()})"
        start = time.monotonic()
        yield
        self._seconds.setdefault(method, []).append(time.monotonic() - start)
        self._left[method] -= 1
        self._where = ""

    def seconds_left(self) -> float | None:
        """What is left at the pace of the finished rounds, of the same method where there are any.

        Returns:
            Seconds; `None` before the first round is finished.
        """
        everything = [taken for rounds in self._seconds.values() for taken in rounds]
        if not everything:
            return None
        paces = {method: self._seconds.get(method) or everything for method in self._left}
        return sum(
            count * sum(paces[method]) / len(paces[method]) for method, count in self._left.items()
        )

    def _time_left(self) -> str:
        seconds = self.seconds_left()
        return "" if seconds is None else f", about {roughly(seconds)} left"

    def begin(self, task: str, total: int | None = None) -> None:
        """See `corsa.progress.Progress`."""
        self._inner.begin(f"{self._where} {task}".strip(), total)

    def advance(self, count: int = 1, *, total: int | None = None, note: str = "") -> None:
        """See `corsa.progress.Progress`."""
        self._inner.advance(count, total=total, note=note)

    def say(self, text: str) -> None:
        """See `corsa.progress.Progress`."""
        self._inner.say(text)
