"""An unfinished round: what an interruption must not cost, and when it may be gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corsa.config import Config
from corsa.edits import Edit
from corsa.files import canonical_json, remove_folder, sha256_text, write_atomically
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
        self._fingerprint = sha256_text(
            canonical_json(
                {
                    "edits": [edit.to_record() for edit in edits],
                    "config": config.to_dict(),
                    "parent": ledger.head,
                    "model": ledger.model["sha256"],
                }
            )
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

    def begin(self, progress: Progress) -> None:
        """Take up the pending round if it is this one; put another one aside.

        Args:
            progress: told if something was put aside.
        """
        ticket = self._read()
        if ticket is not None and ticket["fingerprint"] == self._fingerprint:
            self.id = ticket["round"]
            return
        if ticket is None or ticket["round"] in self._ledger.ids():
            # Killed before there was anything to keep, or committed: its place is among the rounds.
            self._ledger.clear_pending()
        else:
            progress.say(
                f"an interrupted round of other edits or settings was put into {self._put_aside()}"
            )
        self.folder.mkdir(parents=True)
        ticket = {"fingerprint": self._fingerprint, "round": self.id}
        write_atomically(self._ticket, canonical_json(ticket))

    def plan(self, make: Callable[[int], list[PlannedEdit]]) -> list[PlannedEdit]:
        """The round's plan: as it was made before the interruption, or made now.

        Args:
            make: asks the model; gets the round's id.

        Returns:
            The plan.
        """
        path = self.folder / "plan.json"
        if not path.exists():
            records = [planned.to_record() for planned in make(self.id)]
            write_atomically(path, canonical_json(records))
        return [
            planned_from_record(
                self.id, Edit.from_record({k: v for k, v in r.items() if k != "corsa"}), r["corsa"]
            )
            for r in json.loads(path.read_text("utf-8"))
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
        noted = {entry.get("round") for entry in self._ledger.journal()}
        if made.id not in noted:
            self._ledger.note(
                {
                    "event": "round",
                    "round": made.id,
                    "round_sha256": made.record["sha256"],
                    "created": now(),
                    "seconds": dict(seconds),
                    "peak_bytes": peak_bytes,
                    "missed": list(missed),
                }
            )
        if not missed:
            self._ledger.move_head(made.id)
        self._ledger.clear_pending()

    def _read(self) -> dict[str, Any] | None:
        try:
            ticket: dict[str, Any] = json.loads(self._ticket.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return ticket

    def _put_aside(self) -> Path:
        aside = self._ledger.path / "aside"
        aside.mkdir(exist_ok=True)
        number = 1 + max((int(p.name) for p in aside.iterdir() if p.name.isdigit()), default=0)
        target = aside / f"{number:04d}"
        remove_folder(target)
        self.folder.rename(target)
        return target
