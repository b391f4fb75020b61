"""The libraries that tasks are tested with: CodeUpdateArena's versions, and the torch that is here.

Tests depend on these versions. torch is taken over as it is installed: upstream's own (2.2.2) and
its dependencies would be another gigabyte, and what its tasks use has not changed since; which do
not work is found out by running the references. A build of torch for CUDA loads libraries of other
packages, which are not taken: its tasks are then left out.
"""

from __future__ import annotations

from pathlib import Path

from corsa.progress import Progress
from corsa.sandbox.environment import make_environment

ARENA = ("numpy==1.26.4", "pandas==2.2.2", "sympy==1.12")
# What some of its tests and implementations import, too; upstream names no versions.
_OF_TESTS = ("pytest==8.2.2", "scipy==1.13.1")
# What torch imports beside those.
_OF_TORCH = ("typing_extensions", "filelock", "networkx", "jinja2", "fsspec")


def arena_environment(cache: Path, progress: Progress | None = None) -> Path:
    """The environment that CodeUpdateArena's programs are run in; made at the first call.

    Args:
        cache: the folder for environments.
        progress: told what goes on.

    Returns:
        Its folder.
    """
    return make_environment(cache, (*ARENA, *_OF_TESTS, *_OF_TORCH), ("torch",), progress)
