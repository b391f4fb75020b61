"""The rounds on disk: a folder that people can read, hash-chained, never half written.

::

    store.json            format, and the base model: name, revision, hash
    HEAD                  the round in use and the hash of its record
    journal.jsonl         when what happened and how long it took (all that differs between equal runs)
    rounds/0001/          one folder a round; equal runs give equal folders, byte for byte
        round.json        id, parent and its hash, config, versions, and the hash of every file here
        edits.jsonl       the edits as given, y⁻ filled in, the plan in the column "corsa"
        metrics.json      what was measured, with its protocol
        generations.jsonl every prompt with the replies of base and edited model
        ...               the artefact: for trained methods a standard PEFT adapter
    pending/              an unfinished round: its plan and checkpoints
    aside/                unfinished rounds that something else replaced

Every JSON file carries the hash of its own content under "sha256"; a round's record carries those of
its files and of its parent's record. No torch is needed to read any of it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from corsa.edits import Edit
from corsa.errors import CorruptError, LockedError, StoreError
from corsa.files import (
    UNFINISHED,
    json_lines,
    remove_folder,
    seal,
    sha256_content,
    sha256_file,
    sha256_text,
    unseal,
    write_atomically,
    write_folder,
)
from corsa.planning import PlannedEdit, planned_from_record

FORMAT = 1
_STORE, _HEAD, _JOURNAL, _RECORD = "store.json", "HEAD", "journal.jsonl", "round.json"
_EDITS, _METRICS, _GENERATIONS = "edits.jsonl", "metrics.json", "generations.jsonl"


class Problem(NamedTuple):
    """One file that is not what was written."""

    file: str
    what: str


@dataclass(frozen=True)
class Round:
    """One round as it was committed.

    Attributes:
        id: its number; never used twice.
        parent: the round it continues; 0 is the base model.
        folder: where its files are.
        record: what `round.json` holds.
    """

    id: int
    parent: int
    folder: Path
    record: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Kind of its artefact."""
        return str(self.record["artefact"]["kind"])

    def edits(self) -> list[PlannedEdit]:
        """Its edits, with what was decided about each.

        Returns:
            The planned edits, in the order of the user's file.
        """
        records = _read_lines(self.folder / _EDITS, self.record["files"][_EDITS])
        return [
            planned_from_record(self.id, Edit.from_record(_without_plan(r)), r["corsa"])
            for r in records
        ]

    def metrics(self) -> dict[str, Any]:
        """What was measured after it.

        Returns:
            The content of `metrics.json`.
        """
        return unseal(self.folder / _METRICS)

    def generations(self) -> list[dict[str, Any]]:
        """Every prompt that was asked after it, with the replies.

        Returns:
            The lines of `generations.jsonl`.
        """
        return _read_lines(self.folder / _GENERATIONS, self.record["files"][_GENERATIONS])


class Ledger:
    """A store's folder. Readers need no lock; writers hold `writing`.

    Args:
        path: the folder; it must hold a store.

    Raises:
        StoreError: if it does not, or in a format this version cannot read.
        CorruptError: if `store.json` is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / _STORE).is_file():
            raise StoreError(f"there is no store at {path}: make one with 'corsa update'")
        self.info = unseal(path / _STORE)
        if self.info["format"] != FORMAT:
            raise StoreError(
                f"{path} has format {self.info['format']} and this corsa reads {FORMAT}: "
                "use the version that wrote it"
            )

    @classmethod
    def create(cls, path: Path, model: Mapping[str, Any]) -> Ledger:
        """Make an empty store, or open the one that another process has made there meanwhile.

        Args:
            path: a folder that does not exist or is empty.
            model: name, revision and sha256 of the base model.

        Returns:
            The store.

        Raises:
            StoreError: if the folder holds something else, or a store of another model.
            LockedError: if somebody else is writing.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            if not (path / _STORE).is_file():
                (path / "rounds").mkdir(exist_ok=True)
                write_atomically(path / _HEAD, seal({"round": 0, "round_sha256": None}))
                write_atomically(path / _STORE, seal({"format": FORMAT, "model": dict(model)}))
        made = cls(path)
        if made.model["sha256"] != model["sha256"]:
            raise StoreError(
                f"{path} was made for {made.model['name']!r} meanwhile, not for {model['name']!r}: "
                "use another store"
            )
        return made

    @property
    def model(self) -> Mapping[str, Any]:
        """The base model: name, revision, sha256."""
        model: Mapping[str, Any] = self.info["model"]
        return model

    @property
    def head(self) -> int:
        """The round in use; 0 is the base model."""
        return int(unseal(self.path / _HEAD)["round"])

    @property
    def pending(self) -> Path:
        """Where an unfinished round keeps what an interruption must not cost."""
        return self.path / "pending"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside the block nobody else writes; the lock goes when the process does.

        Yields:
            Nothing.
        """
        with _locked(self.path):
            self._sweep()
            yield

    def ids(self) -> list[int]:
        """Ids of all rounds, of other branches too.

        Returns:
            In ascending order.
        """
        folders = (path for path in (self.path / "rounds").glob("*") if path.is_dir())
        return sorted(int(path.name) for path in folders if path.name.isdecimal())

    def round(self, id: int) -> Round:
        """One round.

        Args:
            id: its number.

        Returns:
            The round.

        Raises:
            StoreError: if there is none of that number.
            CorruptError: if its record is not what was written, or that of another round.
        """
        folder = self._folder(id)
        if not folder.is_dir():
            there = ", ".join(map(str, self.ids())) or "none yet"
            raise StoreError(f"there is no round {id} in {self.path}: it has {there}")
        record = unseal(folder / _RECORD)
        if record.get("id") != id:
            raise CorruptError(
                f"{folder / _RECORD} is not what was written there: restore it from a copy"
            )
        return Round(id, int(record["parent"]), folder, record)

    def lineage(self, id: int) -> list[Round]:
        """The rounds that led to one, oldest first, itself included.

        Args:
            id: of the last one; 0 gives none.

        Returns:
            The rounds.
        """
        line = []
        while id:
            line.append(self.round(id))
            id = line[-1].parent
        return line[::-1]

    def next_id(self) -> int:
        """The number the next round gets; numbers are never used twice.

        Returns:
            One more than the highest there ever was.
        """
        used = [int(entry["round"]) for entry in self.journal() if "round" in entry]
        return max([0, *self.ids(), *used]) + 1

    def commit(
        self,
        id: int,
        parent: int,
        record: Mapping[str, Any],
        plan: Sequence[PlannedEdit],
        metrics: Mapping[str, Any],
        generations: Sequence[Mapping[str, Any]],
        save_artefact: Callable[[Path], None],
    ) -> Round:
        """Add a round: it appears whole or not at all. The head stays where it is.

        Args:
            id: its number, from `next_id`.
            parent: the round it continues.
            record: config, versions and whatever else `round.json` is to hold.
            plan: its edits.
            metrics: what was measured.
            generations: prompts and replies.
            save_artefact: writes the artefact's files.

        Returns:
            The round.
        """
        parent_hash = self.round(parent).record["sha256"] if parent else None

        def write(folder: Path) -> None:
            save_artefact(folder)
            artefact = sorted(path.name for path in folder.iterdir())
            lines = json_lines([planned.to_record() for planned in plan])
            (folder / _EDITS).write_text(lines, "utf-8")
            (folder / _METRICS).write_text(seal(metrics), "utf-8")
            (folder / _GENERATIONS).write_text(json_lines(list(map(dict, generations))), "utf-8")
            whole = {
                **record,
                "id": id,
                "parent": parent,
                "parent_sha256": parent_hash,
                "artefact": {"kind": record["artefact"]["kind"], "files": artefact},
                "files": {path.name: sha256_file(path) for path in sorted(folder.iterdir())},
            }
            (folder / _RECORD).write_text(seal(whole), "utf-8")

        write_folder(self._folder(id), write)
        return self.round(id)

    def move_head(self, id: int) -> None:
        """Put another round into use; nothing is deleted.

        Args:
            id: the round; 0 is the base model.
        """
        digest = self.round(id).record["sha256"] if id else None
        write_atomically(self.path / _HEAD, seal({"round": id, "round_sha256": digest}))

    def journal(self) -> list[dict[str, Any]]:
        """What happened when.

        Returns:
            One dict per event, oldest first; the chain of their hashes is whole.

        Raises:
            CorruptError: if it is not what was written.
        """
        path, before = self.path / _JOURNAL, None
        events = _read_lines(path) if path.exists() else []
        for event in events:
            if event.get("before") != before or event.get("sha256") != _event_hash(event):
                raise CorruptError(f"{path} is not what was written: restore it from a copy")
            before = event["sha256"]
        return events

    def note(self, event: Mapping[str, Any]) -> None:
        """Add an event to the journal.

        Args:
            event: plain data; it gets the hash of everything before it.
        """
        events = self.journal()
        before = events[-1]["sha256"] if events else None
        entry = {**event, "before": before}
        entry["sha256"] = sha256_content(entry)
        write_atomically(self.path / _JOURNAL, json_lines([*events, entry]))

    def clear_pending(self) -> None:
        """Remove what an unfinished round kept."""
        remove_folder(self.pending)

    def verify(self) -> list[Problem]:
        """Recompute every hash: of files, of records, and along the chain of parents.

        Returns:
            What is wrong, by file; nothing if all is as it was written.
        """
        problems: list[Problem] = []
        self._verify_file(problems, _STORE)
        for id in self.ids():
            self._verify_round(problems, id)
        self._verify_head(problems)
        self._verify_journal(problems)
        return problems

    def _verify_file(self, problems: list[Problem], name: str) -> dict[str, Any] | None:
        try:
            return unseal(self.path / name)
        except CorruptError as error:
            problems.append(Problem(name, str(error)))
            return None

    def _verify_round(self, problems: list[Problem], id: int) -> None:
        folder = self._folder(id)
        where = f"rounds/{folder.name}"
        record = self._verify_file(problems, f"{where}/{_RECORD}")
        if record is None:
            return
        if record.get("id") != id:
            problems.append(Problem(f"{where}/{_RECORD}", "it is not the record of this round"))
            return
        there = {path.name for path in folder.iterdir()} - {_RECORD}
        for name in sorted(there | record["files"].keys()):
            if name not in record["files"]:
                problems.append(Problem(f"{where}/{name}", "it was not written by corsa"))
            elif name not in there:
                problems.append(Problem(f"{where}/{name}", "it is missing"))
            elif (found := sha256_file(folder / name)) != record["files"][name]:
                text = f"its SHA-256 is {found[:12]}…, written was {record['files'][name][:12]}…"
                problems.append(Problem(f"{where}/{name}", text))
        if record["parent"] and record["parent_sha256"] != self._record_hash(record["parent"]):
            text = f"its parent, round {record['parent']}, is not what it continued"
            problems.append(Problem(f"{where}/{_RECORD}", text))

    def _verify_journal(self, problems: list[Problem]) -> None:
        path, ids = self.path / _JOURNAL, self.ids()
        line = self._line_in_use()
        if not path.exists():
            if line:
                problems.append(Problem(_JOURNAL, "it is missing"))
            return
        try:
            events = self.journal()
            whole = path.read_bytes().decode() == json_lines(events)
        except (CorruptError, ValueError):
            events, whole = [], False
        made = {int(e["round"]): e for e in events if e.get("event") == "round" and "round" in e}
        for id in made.keys() & set(ids):
            whole &= made[id].get("round_sha256") == self._record_hash(id)
        if not whole:
            problems.append(Problem(_JOURNAL, "it is not what was written"))
            return
        problems += [
            Problem(f"rounds/{id:04d}", "it is missing") for id in sorted(made.keys() - set(ids))
        ]
        # A round that was committed just before a kill is not in it until it is put into use.
        known = made.keys() | {e.get("to") for e in events if e.get("event") == "rollback"}
        if missed := [str(id) for id in line if id not in known]:
            problems.append(Problem(_JOURNAL, f"it does not know round {', '.join(missed)}"))

    def _line_in_use(self) -> list[int]:
        """Ids of the rounds that led to the head; none where that cannot be read."""
        try:
            return [made.id for made in self.lineage(self.head)]
        except (StoreError, KeyError):
            return []

    def _verify_head(self, problems: list[Problem]) -> None:
        head = self._verify_file(problems, _HEAD)
        if head is None:
            return
        id = head.get("round")
        if id is None:
            problems.append(Problem(_HEAD, "it is not what was written there"))
        elif id and head.get("round_sha256") != self._record_hash(id):
            problems.append(Problem(_HEAD, f"round {id} is not what was put into use"))

    def _record_hash(self, id: int) -> str | None:
        try:
            return str(self.round(id).record["sha256"])
        except StoreError:
            return None

    def _sweep(self) -> None:
        """Remove what a killed writer left half written; the lock is held."""
        for folder in (self.path, self.path / "rounds", self.pending):
            for path in folder.glob(f".*{UNFINISHED}") if folder.is_dir() else ():
                if path.is_dir():
                    remove_folder(path)
                else:
                    path.unlink()

    def _folder(self, id: int) -> Path:
        return self.path / "rounds" / f"{id:04d}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the store at a path; the kernel drops it with its process."""
    from filelock import FileLock, Timeout

    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(f"another process is writing to {path}: wait until it is done") from None
    try:
        yield
    finally:
        lock.release()


def now() -> str:
    """The time, as the journal writes it.

    Returns:
        ISO 8601 in UTC, to the second.
    """
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def check_free(path: Path) -> None:
    """Make sure that a store can be made at a place, or that there is one.

    Args:
        path: where.

    Raises:
        StoreError: if something else is there.
    """
    # HEAD is written before store.json: a store whose making was cut short may be finished.
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file: give a folder for the store")
    there = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    ours = (_HEAD, "rounds", ".lock")
    if _STORE not in there and any(
        name not in ours and not name.endswith(UNFINISHED) for name in there
    ):
        raise StoreError(f"{path} holds other things and no store: give a new or an empty folder")


def _read_lines(path: Path, sha256: str | None = None) -> list[dict[str, Any]]:
    """The lines of a file; one whose hash is known must have it."""
    try:
        text = path.read_bytes().decode()
        if sha256 is not None and sha256_text(text) != sha256:
            raise ValueError("another hash")
        lines = [json.loads(line) for line in text.split("\n") if line]
        if not all(isinstance(line, dict) for line in lines):
            raise ValueError("a line that is no record")
        return lines
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing: restore it from a copy") from None
    except ValueError:
        raise CorruptError(f"{path} is not what was written: restore it from a copy") from None


def _event_hash(event: Mapping[str, Any]) -> str | None:
    """The hash an event must carry; `None` if it cannot be an event of ours."""
    try:
        return sha256_content(event)
    except ValueError:
        return None


def _without_plan(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "corsa"}
