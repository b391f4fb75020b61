"""What a base model answered once, kept in the user's cache: it never changes, and may be lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corsa.files import canonical_json, sha256_text, write_atomically
from corsa.sources import cache_folder


def remembered(kind: str, key: Sequence[Any], compute: Callable[[], Any]) -> Any:
    """A value from the cache, or computed now and put there.

    Args:
        kind: names the folder in the cache.
        key: all that the value depends on; plain data.
        compute: gives the value, as plain data.

    Returns:
        The value as JSON gives it back.
    """
    if (known := recalled(kind, key)) is not None:
        return known
    return remember(kind, key, compute())


def recalled(kind: str, key: Sequence[Any]) -> Any:
    """A value from the cache.

    Args:
        kind: names the folder in the cache.
        key: all that the value depends on; plain data.

    Returns:
        The value; `None` if it is not there.
    """
    return _read(_path(kind, key))


def remember(kind: str, key: Sequence[Any], value: Any) -> Any:
    """Put a value into the cache.

    Args:
        kind: names the folder in the cache.
        key: all that the value depends on; plain data.
        value: plain data, not `None`.

    Returns:
        The value as JSON gives it back.
    """
    return _write(_path(kind, key), value)


def each_remembered(
    kind: str, key: Sequence[Any], texts: Sequence[str], compute: Callable[[list[str]], list[Any]]
) -> list[Any]:
    """A value for each of some texts; those that the cache lacks are computed now, all together.

    Hashes of the texts are kept, not the texts. Of two processes that add values at the same time one
    may lose its own.

    Args:
        kind: names the folder in the cache.
        key: all that a value depends on, beside its text; plain data.
        texts: any number, each as often as it likes.
        compute: gives the values of different texts, as plain data.

    Returns:
        The values as JSON gives them back.
    """
    path = _path(kind, key)
    known = _read(path) or {}
    new = {text: sha256_text(text)[:32] for text in texts}
    new = {text: name for text, name in new.items() if name not in known}
    if new:
        known = _write(path, known | dict(zip(new.values(), compute(list(new)), strict=True)))
    return [known[sha256_text(text)[:32]] for text in texts]


def _path(kind: str, key: Sequence[Any]) -> Path:
    return cache_folder() / kind / f"{sha256_text(canonical_json(list(key)))[:32]}.json"


def _read(path: Path) -> Any:
    """What is there; `None` of what is not, or is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, value: Any) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text := canonical_json(value))
    return json.loads(text)
