"""Facts files in, `Edit`s out, and back: JSONL, a JSON array or CSV.

Here bytes become records that know their line; `corsa.validation` makes edits of them. Every fault
is found and named by file and line, or nothing is read.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corsa.edits import FIELDS, Edit
from corsa.errors import BadEditsError, Fault, UsageError
from corsa.layouts import layout_of
from corsa.validation import RESERVED, Reading, Row, did_you_mean, edits_from_rows, short

__all__ = ["Reading", "csv_rows", "edits_from_records", "parse_edits", "read_edits", "write_edits"]

_JSON_CELLS = ("paraphrases", "train_paraphrases", "keep", "locality", "portability")
_FLAGS = {"true": True, "false": False}


def read_edits(path: str | Path) -> Reading:
    """Read a facts file: JSONL, a JSON array or CSV, by its extension, otherwise by its content.

    Returns:
        The edits in the order of the file, and warnings.

    Raises:
        BadEditsError: if anything in the file is wrong; it lists every fault.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadEditsError([Fault(str(path), f"it cannot be read: {reason}")]) from None
    return parse_edits(data, str(path))


def parse_edits(data: bytes | str, name: str) -> Reading:
    """Like `read_edits` for the content of a file that is called `name`.

    Returns:
        The edits in the order of the file, and warnings.

    Raises:
        BadEditsError: if anything in it is wrong; it lists every fault.
    """
    text = _decode(data, name) if isinstance(data, bytes) else data
    text = text.removeprefix("\ufeff")  # the byte order mark that some editors write
    if not text.strip():
        raise BadEditsError([Fault(name, "the file is empty")])
    rows_of = {"[": _array_rows, "{": _jsonl_rows}.get(text.lstrip()[0], csv_rows)
    by_suffix = {".json": _array_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    rows_of = (by_suffix | {".csv": csv_rows}).get(Path(name).suffix.lower(), rows_of)
    return edits_from_rows(list(rows_of(text, name)), name)


def edits_from_records(records: Iterable[Mapping[str, Any] | Edit]) -> Reading:
    """Validate records given in Python as if they stood in one file ("edit 1", "edit 2", ...).

    Returns:
        The edits in the given order, and warnings.

    Raises:
        BadEditsError: if anything is wrong; it lists every fault.
    """
    values = (item.to_record() if isinstance(item, Edit) else item for item in records)
    return edits_from_rows([Row(f"edit {n}", value) for n, value in enumerate(values, 1)], "edits")


def write_edits(edits: Iterable[Edit]) -> str:
    """The JSONL text that `read_edits` reads back as equal edits.

    Returns:
        One record a line; empty for no edits.

    Raises:
        UsageError: if an edit's metadata holds a column that would be read as something else.
    """
    lines = []
    for edit in edits:
        record = edit.to_record()
        if taken := (layout_of(record).marks | {RESERVED}) & record.keys():
            what = f"edit {short(edit.id)} has metadata that would be read as something else"
            raise UsageError(f"{what}; rename it: {', '.join(sorted(taken))}")
        lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines)


def _decode(data: bytes, name: str) -> str:
    if b"\0" in data[:2] or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        what = f"this is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {name}"
        raise BadEditsError([Fault(f"{name}:1", what)])
    lines, faults = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError as error:
            byte = f"byte {line[error.start]:#04x} at column {error.start + 1}"
            faults.append(Fault(f"{name}:{number}", f"not UTF-8: {byte}; save the file as UTF-8"))
    if faults:
        raise BadEditsError(faults)
    return "\n".join(lines)


def _jsonl_rows(text: str, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        where, record = f"{name}:{number}", line.strip()
        if record == "{" or record.startswith("["):
            what = "a .jsonl file holds one whole record on each line; an array is a .json file"
            yield Row(where, None, [what])
            return
        if record:
            yield Row(where, *_whole_value(record))


def _array_rows(text: str, name: str) -> Iterator[Row]:
    at = _skip(text, 0)
    line, counted, number = 1, 0, 0
    try:
        if text[at] != "[":
            what = "a .json file is one array of records; one record a line is a .jsonl file"
            raise json.JSONDecodeError(what, text, at)
        at = _skip(text, at + 1)
        more = text[at : at + 1] != "]"
        while more:
            value, end, problems = _value_at(text, at)
            breaks, counted, number = text.count("\n", counted, at), at, number + 1
            line += breaks
            which = f" (record {number})" if number > 1 and not breaks else ""
            yield Row(f"{name}:{line}{which}", value, problems)
            at = _skip(text, end)
            if text[at : at + 1] not in (",", "]"):
                raise json.JSONDecodeError("',' or ']' is missing after a record", text, at)
            more = text[at] == ","
            at = _skip(text, at + 1)
        if number and at < len(text):
            raise json.JSONDecodeError("more text after the array", text, at)
    except json.JSONDecodeError as error:
        yield Row(f"{name}:{error.lineno}", None, [_not_json(error)])


def _whole_value(text: str) -> tuple[Any, list[str]]:
    try:
        value, end, problems = _value_at(text, 0)
    except json.JSONDecodeError as error:
        return None, [_not_json(error)]
    return value, [*problems, "more text after the value"] if text[end:].strip() else problems


def _value_at(text: str, start: int) -> tuple[Any, int, list[str]]:
    """Decode the JSON value that begins at `start`.

    Returns:
        The value, where it ends, and what Python's decoder lets pass in it.

    Raises:
        JSONDecodeError: if there is none.
    """
    problems: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                problems.append(f"{short(name)} stands {count} times in one object")
        return dict(pairs)

    def number(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            problems.append(f"{digits:.20} is not a number that can be kept; write null")
        return value

    decoder = json.JSONDecoder(
        object_pairs_hook=unique,
        parse_constant=number,
        parse_float=number,
        parse_int=lambda digits: int(digits) if len(digits) < 4000 else number(digits),
    )
    try:
        return *decoder.raw_decode(text, start), problems
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, start) from None


def _not_json(error: json.JSONDecodeError) -> str:
    return f"not JSON at column {error.colno}: {error.msg}"


def _skip(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def csv_rows(text: str, name: str) -> Iterator[Row]:
    """The rows of a CSV file whose first line names the columns.

    Args:
        text: what is in it.
        name: of the file.

    Yields:
        One for every record, with what is wrong with it.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    line = 1
    limit = csv.field_size_limit(len(text))
    try:
        for cells in reader:
            where, line = f"{name}:{line}", reader.line_num + 1
            if not any(cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if problems := _header_problems(header):
                    yield Row(where, None, problems)
                    return
            else:
                yield Row(where, *_csv_record(header, cells))
    except csv.Error as error:
        yield Row(f"{name}:{line}", None, [f"not CSV from here on: {error}"])
    finally:
        csv.field_size_limit(limit)


def _header_problems(header: Sequence[str]) -> list[str]:
    problems = [
        f"the column {short(column)} stands {n} times in the header"
        for column, n in Counter(header).items()
        if n > 1
    ]
    if "" in header:
        problems.append("the header has a column without a name")
    for name in ("prompt", "target_new"):
        if name not in header:
            hint = did_you_mean(name, set(header) - set(FIELDS), alike=0.6)
            what = "the first line must name the columns, separated by commas"
            problems.append(f"{what}; it has no `{name}`{hint}")
    return problems


def _csv_record(header: Sequence[str], cells: Sequence[str]) -> tuple[Any, list[str]]:
    if len(cells) != len(header):
        count = f"has {len(cells)} cell{'s' if len(cells) != 1 else ''}, the header {len(header)}"
        return None, [f"{count}; a cell with a comma or a line end needs double quotes around it"]
    record: dict[str, Any] = {}
    problems: list[str] = []
    for name, raw in zip(header, cells, strict=True):
        cell = raw.replace("\r\n", "\n")
        if name in _JSON_CELLS and cell.strip():
            record[name], wrong = _whole_value(cell.strip())
            hint = f'found {short(cell)}; write a list as ["first", "second"]'
            problems += [f"the cell `{name}`: {what}; {hint}" for what in wrong]
        elif cell.strip():
            # Spreadsheets write TRUE.
            flag = _FLAGS.get(cell.strip().lower()) if name == "verbatim" else None
            record[name] = cell if flag is None else flag
    return record, problems
