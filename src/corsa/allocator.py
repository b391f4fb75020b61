"""Freed memory that the C library keeps to itself, given back to the system.

Training steps are all of a different shape, and what they free lies between what stays: a process that
needs 2.6 GB for a step of the embedded model had grown to 7.8 GB after three rounds (docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys


def give_back() -> bool:
    """Give freed memory back where the C library can do that (glibc).

    Returns:
        Whether anything was given back.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(trim and trim(0))
