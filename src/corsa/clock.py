"""How long the parts of a round took, what went before an interruption included."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from corsa.errors import CorruptError
from corsa.files import seal, unseal, write_atomically

PARTS = ("plan", "train", "measure")
FILE = "seconds.json"


class Clock:
    """Seconds by part, kept beside the checkpoints.

    The file is written when a part begins. Where the process was killed, the part had gone on until the
    newest of the files beside it at least: what came after that was lost and is done again.

    Args:
        folder: of an unfinished round.

    Attributes:
        seconds: by part.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.seconds: dict[str, float] = {}
        self._part = PARTS[0]
        self._last = time.monotonic()

    def take_up(self) -> None:
        """Add what earlier tries took."""
        try:
            found = unseal(self._path)
        except CorruptError:
            return
        self.seconds = dict(found["seconds"])
        written = self._path.stat().st_mtime
        newest = max(path.stat().st_mtime for path in self._path.parent.rglob("*"))
        self._add(found["part"], newest - written)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A try at the round is made inside the block; however it ends, its seconds are kept.

        Yields:
            Nothing.
        """
        self._last = time.monotonic()
        self._write()
        try:
            yield
        except BaseException:
            self._add(self._part, time.monotonic() - self._last)
            with suppress(OSError):  # what went wrong matters more
                self._write()
            raise

    def lap(self, part: str) -> None:
        """A part is over.

        Args:
            part: one of `PARTS`.
        """
        now = time.monotonic()
        self._add(part, now - self._last)
        self._last = now
        self._part = PARTS[min(PARTS.index(part) + 1, len(PARTS) - 1)]
        self._write()

    def _add(self, part: str, seconds: float) -> None:
        self.seconds[part] = round(self.seconds.get(part, 0.0) + seconds, 2)

    def _write(self) -> None:
        write_atomically(self._path, seal({"seconds": self.seconds, "part": self._part}))
