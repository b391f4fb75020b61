"""An unfinished round: what an interruption must not cost, and when it may be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corsa.clock import FILE as SECONDS
from corsa.config import Config
from corsa.edits import Edit
from corsa.errors import CorruptError
from corsa.files import remove_folder, seal, sha256_content, unseal, write_atomically
from corsa.ledger import Ledger, Round, now
from corsa.planning import PlannedEdit, planned_from_record
from corsa.progress import Progress


class Pending:
    """The round in the store's `pending` folder, if it is the one that is asked for.

    The same edits, settings, parent and model go on where they stopped; anything else puts the
    interrupted round aside first.

    Args:
        ledger: the store, locked for writing.
        config: the settings of the round asked for.
        edits: its edits.
    """

    def __init__(self, ledger: Ledger, config: Config, edits: Sequence[Edit]) -> None:
        self._ledger = ledger
        self._ticket = ledger.pending / "ticket.json"
        self._fingerprint = sha256_content(
            {
                "edits": [edit.to_record() for edit in edits],
                "config": config.to_dict(),
                "parent": ledger.head,
                "model": ledger.model["sha256"],
            }
        )
        self.id = ledger.next_id()

    @property
    def folder(self) -> Path:
        """Where checkpoints go."""
        return self._ledger.pending

    def finished(self) -> Round | None:
        """The round, if it was committed and only `finish` is lacking.

        Returns:
            The round; `None` if there is none.
        """
        ticket = self._read()
        if ticket is None or ticket["fingerprint"] != self._fingerprint:
            return None
        if ticket["round"] not in self._ledger.ids():
            return None
        self.id = ticket["round"]
        return self._ledger.round(self.id)

    def begin(self, progress: Progress, discard: bool = False) -> None:
        """Take up the pending round if it is this one; put another one aside.

        Args:
            progress: told if something was put aside.
            discard: remove other interrupted rounds, those that were put aside too.
        """
        if discard:
            remove_folder(self._aside)
        ticket = self._read()
        if ticket is not None and ticket["fingerprint"] == self._fingerprint:
            self.id = ticket["round"]
            return
        committed = ticket is not None and ticket["round"] in self._ledger.ids()
        if ticket is not None and committed:
            self._note(self._ledger.round(ticket["round"]))  # killed before it was noted
        if ticket is None or committed or discard:
            # Killed before there was anything to keep, or its place is among the rounds.
            self._ledger.clear_pending()
        else:
            progress.say(
                f"an interrupted round of other edits or settings was put into {self._put_aside()}"
            )
        self.folder.mkdir(parents=True)
        ticket = {"fingerprint": self._fingerprint, "round": self.id}
        write_atomically(self._ticket, seal(ticket))

    def plan(self, make: Callable[[int], list[PlannedEdit]]) -> list[PlannedEdit]:
        """The round's plan: as it was made before the interruption, or made now.

        Checkpoints belong to a plan: without one that is as it was written they go.

        Args:
            make: asks the model; gets the round's id.

        Returns:
            The plan.
        """
        path = self.folder / "plan.json"
        try:
            unseal(path)
        except CorruptError:
            for other in self.folder.iterdir():
                if other.is_dir():
                    remove_folder(other)
                elif other not in (path, self._ticket, self.folder / SECONDS):
                    other.unlink()
            records = [planned.to_record() for planned in make(self.id)]
            write_atomically(path, seal({"plan": records}))
        return [
            planned_from_record(
                self.id, Edit.from_record({k: v for k, v in r.items() if k != "corsa"}), r["corsa"]
            )
            for r in unseal(path)["plan"]
        ]

    def finish(
        self,
        made: Round,
        seconds: Mapping[str, float],
        peak_bytes: int,
        missed: Sequence[str] = (),
    ) -> None:
        """The round is committed: note it, put it into use unless it missed what was asked, clear up.

        Args:
            made: the round.
            seconds: how long its parts took.
            peak_bytes: the most memory that was in use.
            missed: conditions it does not meet.
        """
        self._note(made, seconds, peak_bytes, missed)
        if not missed:
            self._ledger.move_head(made.id)
        self._ledger.clear_pending()

    def _note(
        self,
        made: Round,
        seconds: Mapping[str, float] | None = None,
        peak_bytes: int | None = None,
        missed: Sequence[str] = (),
    ) -> None:
        """Tell the journal of a round, unless it knows it."""
        if made.id in {entry.get("round") for entry in self._ledger.journal()}:
            return
        self._ledger.note(
            {
                "event": "round",
                "round": made.id,
                "round_sha256": made.record["sha256"],
                "created": now(),
                "seconds": dict(seconds or {}),
                "peak_bytes": peak_bytes,
                "missed": list(missed),
            }
        )

    def _read(self) -> dict[str, Any] | None:
        try:
            return unseal(self._ticket)
        except CorruptError:
            return None

    @property
    def _aside(self) -> Path:
        return self._ledger.path / "aside"

    def _put_aside(self) -> Path:
        aside = self._aside
        aside.mkdir(exist_ok=True)
        number = 1 + max((int(p.name) for p in aside.iterdir() if p.name.isdigit()), default=0)
        target = aside / f"{number:04d}"
        remove_folder(target)
        self.folder.rename(target)
        return target
