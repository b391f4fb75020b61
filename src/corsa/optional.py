"""Libraries that only some commands need: imported when they are used, named when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from corsa.errors import UsageError


def optional(module: str, extra: str) -> Any:
    """A module of a library that is not installed with corsa itself.

    Args:
        module: as in an import statement.
        extra: the optional extra of corsa that brings it.

    Returns:
        The module.

    Raises:
        UsageError: if it is not installed; the text says how to.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed: pip install 'corsa-edit[{extra}]'"
        ) from error
