"""On what a run was made, and by which code: hardware and commit, no names of machines or folders."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def hardware(device: str) -> dict[str, Any]:
    """What made the numbers, beside the versions that every protocol holds.

    Args:
        device: the model's, as torch names it.

    Returns:
        `cpu`, `cores`, `threads` that torch uses, and `gpu` (`None` on a CPU).
    """
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
    }


def commit(folder: Path) -> str | None:
    """The commit that a folder of a checkout is at.

    Args:
        folder: any; a package installed into somebody else's checkout is not part of it.

    Returns:
        The hash, with `+changes` where something in the folder is new or not as committed; `None`
        without git.
    """
    if not _git(folder, "ls-files"):
        return None
    changed = _git(folder, "status", "--porcelain", ".")
    return _git(folder, "rev-parse", "HEAD") + "+changes" * bool(changed)


def _git(folder: Path, *words: str) -> str:
    """What git says; nothing where it is not there or knows nothing of the folder."""
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def _cpu() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text("utf-8", "replace").split("\n"):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
