"""How far a benchmark is, and how long it will still take: told with everything a round tells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean as mean

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
        # Of what is measured once a run's rounds are made, spread over them.
        self._ends: dict[str, list[float]] = {}
        self._rounds = 1
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
        left, self._rounds = self._left[method] - rounds, rounds
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
        with self._timed(name, self._seconds.setdefault(method, [])):
            yield
        self._left[method] -= 1

    @contextmanager
    def end(self, method: str, name: str) -> Iterator[None]:
        """What is measured at the end of a run is measured inside the block.

        Args:
            method: the run's.
            name: what the run is called.

        Yields:
            Nothing.
        """
        with self._timed(name, self._ends.setdefault(method, [])):
            yield

    @contextmanager
    def _timed(self, name: str, seconds: list[float]) -> Iterator[None]:
        done = self._all - sum(self._left.values())
        self._where = f"{name} ({done} of {self._all} rounds done{self._time_left()})"
        start = time.monotonic()
        yield
        seconds.append(time.monotonic() - start)
        self._where = ""

    def seconds_left(self) -> float | None:
        """What is left at the pace of the finished rounds, of the same method where there are any.

        Returns:
            Seconds; `None` before the first round is finished.
        """
        rounds, ends = _means(self._seconds), _means(self._ends)
        if not rounds:
            return None
        return sum(
            count * (rounds.get(method, mean(rounds.values())) + end / self._rounds)
            for method, count in self._left.items()
            for end in [ends.get(method, mean(ends.values()) if ends else 0.0)]
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


def _means(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {method: mean(taken) for method, taken in seconds.items() if taken}
