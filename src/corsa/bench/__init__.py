"""Methods compared on public data sets: rounds, seeds, intervals, tables and figures.

What is only needed here comes with the extra `bench`; importing this package needs none of it.
"""

from __future__ import annotations

import importlib.util

from corsa.errors import CorsaError

_NEEDED = ("scipy", "matplotlib", "pyarrow")


def check_installed() -> None:
    """Refuse to start a long run whose results could not be summed up.

    Raises:
        CorsaError: if a library of the extra `bench` is missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CorsaError(
            f"a benchmark needs {' and '.join(missing)}: pip install 'corsa-edit[bench]'"
        )
