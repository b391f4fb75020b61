"""Writing files so that a reader never sees half of one, and naming what was written by its hash."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from corsa.errors import CorruptError

# How names of what is being written end; a killed process leaves it behind.
UNFINISHED = ".writing"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, two spaces, a final newline: equal values give equal bytes.

    The form is part of the store's format: changing it changes every hash.

    Args:
        value: anything JSON can hold.

    Returns:
        The text.
    """
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(records: list[dict[str, Any]]) -> str:
    """One record per line, keys in their own order.

    Args:
        records: dicts.

    Returns:
        The text, with a newline after each record.
    """
    return "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in records)


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8.

    Args:
        text: any text.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_content(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, whatever it says under "sha256" itself.

    Args:
        content: a dict for JSON.

    Returns:
        64 hexadecimal digits.
    """
    return sha256_text(canonical_json({k: v for k, v in content.items() if k != "sha256"}))


def seal(content: Mapping[str, Any]) -> str:
    """Canonical JSON that carries the hash of its own content under "sha256".

    Args:
        content: a dict for JSON.

    Returns:
        The text; `unseal` reads it.
    """
    return canonical_json({**content, "sha256": sha256_content(content)})


def unseal(path: Path) -> dict[str, Any]:
    """Read a file that holds what `seal` gave.

    Args:
        path: the file.

    Returns:
        The content, with its "sha256".

    Raises:
        CorruptError: if it is missing, or differs from what was written in any bit.
    """
    try:
        text = path.read_bytes().decode()
        content: dict[str, Any] = json.loads(text)
        whole = text == canonical_json(content) and content["sha256"] == sha256_content(content)
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing: restore it from a copy") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CorruptError(f"{path} is not what was written: restore it from a copy")
    return content


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: readers see the old text or the new, also after a power cut.

    Args:
        path: the file; its folder must exist.
        text: what it shall hold.
    """
    handle, name = tempfile.mkstemp(UNFINISHED, f".{path.name}.", path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make a folder that appears whole or not at all: written beside, synced, renamed.

    Args:
        target: the folder to make; it must not exist, its parent must.
        write: fills the folder it is given.
    """
    beside = target.parent / f".{target.name}{UNFINISHED}"
    remove_folder(beside)
    beside.mkdir()
    try:
        write(beside)
        for path in sorted(beside.rglob("*")):
            if path.is_file():
                sync_file(path)
            else:
                sync_folder(path)
        sync_folder(beside)
        beside.rename(target)
    except BaseException:
        remove_folder(beside)
        raise
    sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk.

    Args:
        path: the file.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk.

    Args:
        path: the folder.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it, if it is there.

    Args:
        path: the folder.
    """
    import shutil

    if path.exists():
        shutil.rmtree(path)
