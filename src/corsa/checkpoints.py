"""A round's training kept on disk, so that an interruption costs a minute and not the round."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from corsa.errors import CorruptError
from corsa.files import (
    remove_folder,
    seal,
    sha256_file,
    unseal,
    write_atomically,
    write_folder,
)

# Seconds of training that an interruption may cost, unless a single step takes longer.
_EVERY = 60.0
_STATE, _POSITION = "state.safetensors", "position.json"

State = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoints:
    """Saves and finds the state of one round; two folders take turns, so that one is always whole.

    Args:
        folder: where they are kept; `None`: nothing is saved.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._saved_at = self._called_at = time.monotonic()

    def remember(self, name: str, compute: Callable[[], Any]) -> Any:
        """What was computed before the interruption, or what is computed now.

        Args:
            name: of the value.
            compute: gives plain data; called only if nothing was kept, or not as it was written.

        Returns:
            The value.
        """
        if self._folder is None:
            return compute()
        path = self._folder / f"{name}.json"
        try:
            return unseal(path)["value"]
        except CorruptError:
            write_atomically(path, seal({"value": compute()}))
        return unseal(path)["value"]

    def maybe_save(self, state: Callable[[], State]) -> None:
        """Save if the last checkpoint would be too old after another step as long as this one.

        Args:
            state: gives what is to be saved; called only if something is.
        """
        now = time.monotonic()
        if now - self._saved_at + (now - self._called_at) >= _EVERY:
            self.save(*state())
        self._called_at = time.monotonic()

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
            save_file(tensors, beside / _STATE)
            content = {"position": position, "state_sha256": sha256_file(beside / _STATE)}
            (beside / _POSITION).write_text(seal(content), "utf-8")

        older = self._all()
        if target not in older:
            write_folder(target, write)
        for folder in older:
            if folder != target:
                remove_folder(folder)
        self._saved_at = time.monotonic()

    def load(self) -> State | None:
        """The newest checkpoint that is as it was written; those that are not are removed.

        Returns:
            Tensors and plain data; `None` if there is none.
        """
        from safetensors.torch import load_file

        for folder in reversed(self._all()):
            try:
                content = unseal(folder / _POSITION)
                if content["state_sha256"] == sha256_file(folder / _STATE):
                    return load_file(folder / _STATE), content["position"]
            except (CorruptError, FileNotFoundError):
                pass
            remove_folder(folder)
        return None

    def _all(self) -> list[Path]:
        return [] if self._folder is None else sorted(self._folder.glob("step-*"))
