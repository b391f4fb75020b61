"""Records in, `Edit`s out: what is wrong is named by its place, or nothing is accepted.

`edit_from_record` is the only place where a record is validated, whatever file it came from;
`edits_from_rows` also compares the records of a file with each other.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from corsa.edits import FIELDS, Edit, Probe
from corsa.errors import BadEditsError, Fault
from corsa.layouts import EASYEDIT, layout_of, to_native
from corsa.matching import exact, normalise, strip_answer

RESERVED = "corsa"  # the column where a store keeps its own notes about a record
MAX_DEPTH = 32  # levels of lists and objects inside one metadata value
SHOWN = 60  # characters of a value that a message repeats

_MEASURED = ("paraphrases", "locality", "portability")
_KNOWN_NAMES = (*FIELDS, "relation", "case_id", *EASYEDIT.marks, *EASYEDIT.unkept)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_KINDS = {str: "string", int: "number", float: "number", list: "list", tuple: "list"}


class Reading(NamedTuple):
    """What a facts file held, and what its author should know about it."""

    edits: tuple[Edit, ...]
    warnings: tuple[str, ...]


class Row(NamedTuple):
    """One record as it was written, where, and what kept it from being read."""

    where: str
    value: Any
    problems: Sequence[str] = ()


class _Placed(NamedTuple):
    """One valid edit, and where it was written."""

    where: str
    edit: Edit

    def __str__(self) -> str:
        return f"{self.where} (id {short(self.edit.id)}, target {short(self.edit.target_new)})"


def edits_from_rows(rows: Sequence[Row], whole: str) -> Reading:
    """Validate the records of a file called `whole`, one by one and against each other.

    Returns:
        The edits in the order of the file, and warnings.

    Raises:
        BadEditsError: if anything is wrong; it lists every fault.
    """
    if not rows:
        raise BadEditsError([Fault(whole, "there are no records")])
    faults: list[Fault] = []
    placed: list[_Placed] = []
    for where, value, problems in rows:
        if problems:
            faults += [Fault(where, problem) for problem in problems]
            continue
        try:
            placed.append(_Placed(where, edit_from_record(value, where)))
        except BadEditsError as error:
            faults += error.faults
    placed, left_out = _without_changed_probes(placed)
    faults += [*_rivals(placed), *_contradictions(placed)]
    if faults:
        order = {row.where: n for n, row in enumerate(rows)}
        raise BadEditsError(sorted(faults, key=lambda fault: order[fault.where]))
    warnings = (*_layout_warnings(rows, whole), *_name_warnings(placed), *left_out)
    return Reading(tuple(place.edit for place in placed), warnings)


def edit_from_record(record: object, where: str = "edit") -> Edit:
    """One record of any known layout as an `Edit`.

    Returns:
        The edit.

    Raises:
        BadEditsError: if anything in the record is wrong; it lists every fault, at `where`.
    """
    if not isinstance(record, Mapping):
        raise BadEditsError([Fault(where, f"a record is an object, found {_found(record)}")])
    if isinstance(record.get(RESERVED), Mapping):
        record = {name: value for name, value in record.items() if name != RESERVED}
    layout = layout_of(record)
    values, problems = to_native(record, layout)
    fields = _Fields(values, layout.labels, problems)
    edit = Edit(
        prompt=fields.required("prompt"),
        target_new=fields.required("target_new"),
        id=fields.optional("id") or "",
        target_old=fields.optional("target_old"),
        subject=fields.optional("subject"),
        paraphrases=fields.texts("paraphrases"),
        train_paraphrases=fields.texts("train_paraphrases"),
        keep=fields.texts("keep"),
        locality=fields.probes("locality"),
        portability=fields.probes("portability"),
        verbatim=fields.flag("verbatim"),
        metadata=fields.metadata(),
    )
    new, old = edit.target_new, edit.target_old
    if new and old and edit.is_right(old):
        same = f"`target_new` {short(new)} equals `target_old` {short(old)}"
        problems.append(f"{same}: there is nothing to edit")
    if problems:
        raise BadEditsError([Fault(where, problem) for problem in problems])
    return edit


class _Fields(NamedTuple):
    """The fields of a native record by their types; what is wrong with them goes to `problems`."""

    values: Mapping[str, Any]
    labels: Mapping[str, str]
    problems: list[str]

    def text(self, label: str, value: object) -> str:
        if problem := _text_problem(value):
            self.problems.append(f"`{label}` {problem}")
            return ""
        return str(value).strip()

    def optional(self, name: str) -> str | None:
        value = self.values.get(name)
        return None if value is None else self.text(self.labels.get(name, name), value)

    def required(self, name: str) -> str:
        if self.values.get(name) is None:
            hint = did_you_mean(name, self.values.keys() - set(FIELDS), alike=0.6)
            self.problems.append(f"`{self.labels.get(name, name)}` is missing{hint}")
        return self.optional(name) or ""

    def flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        label = self.labels.get(name, name)
        self.problems.append(f"`{label}` must be true or false, found {_found(value)}")
        return None

    def items(self, name: str) -> list[tuple[str, Any]]:
        label, value = self.labels.get(name, name), self.values.get(name)
        if value is not None and not isinstance(value, list | tuple):
            self.problems.append(f"`{label}` must be a list, found {_found(value)}")
            return []
        return [(f"{label}[{n}]", item) for n, item in enumerate(value or (), 1)]

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self.text(label, item) for label, item in self.items(name))

    def probes(self, name: str) -> tuple[Probe, ...]:
        probes = []
        for label, item in self.items(name):
            values: Mapping[str, Any] = item if isinstance(item, Mapping) else {"prompt": item}
            for key in [key for key in values if key not in ("prompt", "answer")]:
                self.problems.append(f"`{label}` has the unknown key {short(key)}")
            prompt = self.text(f"{label}.prompt", values.get("prompt"))
            answers = self.answers(f"{label}.answer", values.get("answer"))
            if name == "portability" and not answers:
                self.problems.append(f"`{label}.answer` is missing: no answer would be right")
            probes.append(Probe(prompt, answers))
        return tuple(probes)

    def answers(self, label: str, value: object) -> tuple[str, ...]:
        if isinstance(value, list | tuple):
            return tuple(self.text(f"{label}[{n}]", item) for n, item in enumerate(value, 1))
        return () if value is None else (self.text(label, value),)

    def metadata(self) -> dict[str, Any]:
        copies = {}
        for name in [name for name in self.values if name not in FIELDS]:
            try:
                copies[name] = _metadata_copy(name, self.values[name])
            except (TypeError, ValueError, RecursionError) as error:
                self.problems.append(f"{short(name)} cannot be kept as metadata: {error}")
        return copies


def printable(text: str) -> str:
    """A text without the characters that no record may hold.

    Args:
        text: what a model said, say.

    Returns:
        The rest of it.
    """
    return _UNPRINTABLE.sub("", text)


def _text_problem(value: object) -> str | None:
    if not isinstance(value, str):
        return f"must be a string, found {_found(value)}"
    if not strip_answer(value):
        return f"is nothing but quotes and a full stop: {value!r}" if value.strip() else "is empty"
    if match := _UNPRINTABLE.search(value):
        code = f"U+{ord(match[0]):04X} at character {match.start() + 1}"
        return f"holds the unprintable character {code}: {short(value)}"
    return None


def _metadata_copy(name: object, value: object) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"a name must be a string, found {_found(name)}")
    if name == RESERVED:
        raise ValueError("the name is reserved; rename the column")
    text = json.dumps({name: value}, ensure_ascii=False, allow_nan=False)
    text.encode()  # fails on half a surrogate pair
    copy = json.loads(text)[name]
    if _depth(copy) > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return copy


def _depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _without_changed_probes(placed: Sequence[_Placed]) -> tuple[list[_Placed], list[str]]:
    """Leave out what is measured on another edit's prompt, and paraphrases equal to their prompt.

    Returns:
        The edits, and one warning for each that lost something.
    """
    changes: dict[str, _Placed] = {}
    for place in placed:
        changes.setdefault(normalise(place.edit.prompt), place)
    kept, warnings = [], []
    for where, edit in placed:
        left: dict[str, Any] = {}
        lost = []
        for name in _MEASURED:
            left[name] = ()
            for item in getattr(edit, name):
                by = changes.get(normalise(_text(item)))
                if by and (by.where != where or name == "paraphrases"):
                    lost.append(f"`{name}` {short(_text(item))} is the prompt of {by.where}")
                else:
                    left[name] += (item,)
        if lost:
            why = "left out, because this file changes the answer"
            warnings.append(f"{where}: {why}: {', '.join(lost)}")
        kept.append(_Placed(where, replace(edit, **left)))
    return kept, warnings


def _rivals(placed: Iterable[_Placed]) -> Iterator[Fault]:
    """Yield a fault for each edit that repeats an earlier one, its id, or its fact otherwise."""
    first: dict[tuple[str, ...], _Placed] = {}
    for place in placed:
        for key in (*place.edit.keys, ("id", place.edit.id)):
            earlier = first.setdefault(key, place)
            same_target = not _disagree(earlier, place)
            if earlier is place or (key[0] == "fact" and same_target):
                continue
            if key[0] == "id":
                problem = f"the id {short(place.edit.id)} is taken by {earlier.where}"
            elif same_target:
                problem = f"repeats {earlier}: its id is {short(place.edit.id)}; leave out one"
            else:
                what = "prompt" if key[0] == "prompt" else "subject and relation"
                problem = f"two targets for one {what} {short(' / '.join(key[1:]))}: {earlier} "
                problem += f"and {place}; keep one, or teach them in two rounds"
            yield Fault(place.where, problem)
            break


def _contradictions(placed: Sequence[_Placed]) -> Iterator[Fault]:
    """Yield a fault for each text that is trained towards two ends, or measured and trained."""
    first: dict[str, tuple[str, _Placed]] = {}
    for name in ("prompt", "train_paraphrases", "keep", *_MEASURED):
        for place in placed:
            value = getattr(place.edit, name)
            for text in [value] if name == "prompt" else map(_text, value):
                if name not in _MEASURED:
                    first.setdefault(normalise(text), (name, place))
                use, by = first.get(normalise(text), ("", place))
                problem = ""
                if name == "train_paraphrases" and _disagree(by, place):
                    problem = f"is trained towards two targets: {by} and {place}"
                elif name == "keep" and use != "keep":
                    problem = f"is changed by {by}: it cannot stay and change"
                elif name in _MEASURED and use:
                    problem = f"is measured, but {by} trains on it as `{use}`; the exam is never "
                    problem += "trained on"
                if problem:
                    yield Fault(place.where, f"`{name}` {short(text)} {problem}")


def _text(item: str | Probe) -> str:
    return item.prompt if isinstance(item, Probe) else item


def _disagree(one: _Placed, other: _Placed) -> bool:
    verbatim = one.edit.verbatim or other.edit.verbatim
    return not exact(one.edit.target_new, other.edit.target_new, verbatim)


def _layout_warnings(rows: Sequence[Row], whole: str) -> Iterator[str]:
    if any(layout_of(row.value) is EASYEDIT and row.value.get("rephrase_prompt") for row in rows):
        yield (
            f"{whole}: EasyEdit's `rephrase_prompt` is often a generation prompt, which "
            "`target_new` does not complete; generality measured on it means little"
        )


def _name_warnings(placed: Iterable[_Placed]) -> Iterator[str]:
    seen = set(_KNOWN_NAMES)
    for where, edit in placed:
        for name in [name for name in edit.metadata if name not in seen]:
            seen.add(name)
            if hint := did_you_mean(name, _KNOWN_NAMES):
                yield f"{where}: {short(name)} is kept as metadata{hint}"


def did_you_mean(name: str, others: Iterable[object], alike: float = 0.82) -> str:
    """Return a hint that ends a message, or nothing where no name among `others` is alike."""
    plain = {str(other).strip().lower().replace("-", "_"): other for other in others}
    best = difflib.get_close_matches(name.strip().lower().replace("-", "_"), plain, 1, alike)
    return f"; did you mean {short(plain[best[0]])}?" if best else ""


def short(value: object) -> str:
    """Return the beginning of a value, for messages."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"


def _found(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kind = "object" if isinstance(value, Mapping) else _KINDS.get(type(value), "value")
    return f"the {kind} {short(value)}"
