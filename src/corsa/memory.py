"""What a base model answered once, kept in the user's cache: it never changes, and may be lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
    path = cache_folder() / kind / f"{sha256_text(canonical_json(list(key)))[:32]}.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        value = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, canonical_json(value))
    return json.loads(path.read_text("utf-8"))
