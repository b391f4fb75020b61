"""A round's training kept on disk, so that an interruption costs a minute and not the round."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from corsa.files import canonical_json, remove_folder, write_atomically, write_folder

# Seconds between two checkpoints.
_EVERY = 45.0

State = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoints:
    """Saves and finds the state of one round; two folders take turns, so that one is always whole.

    Args:
        folder: where they are kept; `None`: nothing is saved.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._saved_at = time.monotonic()

    def remember(self, name: str, compute: Callable[[], Any]) -> Any:
        """What was computed before the interruption, or what is computed now.

        Args:
            name: of the value.
            compute: gives plain data; called only if nothing was kept.

        Returns:
            The value.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{name}.json"
        if not path.exists():
            write_atomically(path, canonical_json(compute()))
        return json.loads(path.read_text("utf-8"))

    def maybe_save(self, state: Callable[[], State]) -> None:
        """Save if the last checkpoint is old enough.

        Args:
            state: gives what is to be saved; called only if something is.
        """
        if time.monotonic() - self._saved_at >= _EVERY:
            self.save(*state())

    def save(self, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
        """Save; the checkpoint before this one is removed once this one is whole.

        Args:
            tensors: by name.
            position: plain data.
        """
        from safetensors.torch import save_file

        if self._folder is None:
            return
        target = self._folder / f"step-{position['step']:06d}"

        def write(beside: Path) -> None:
            save_file(tensors, beside / "state.safetensors")
            (beside / "position.json").write_text(canonical_json(position), "utf-8")

        older = self._all()
        if target not in older:
            write_folder(target, write)
        for folder in older:
            if folder != target:
                remove_folder(folder)
        self._saved_at = time.monotonic()

    def load(self) -> State | None:
        """The newest whole checkpoint.

        Returns:
            Tensors and plain data; `None` if there is none.
        """
        from safetensors.torch import load_file

        if not (found := self._all()):
            return None
        position = json.loads((found[-1] / "position.json").read_text("utf-8"))
        return load_file(found[-1] / "state.safetensors"), position

    def _all(self) -> list[Path]:
        return [] if self._folder is None else sorted(self._folder.glob("step-*"))
