"""The matrices of a saved PEFT adapter, module by module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from corsa.export.adapter import CONFIG
from corsa.export.gguf_layout import Matrix, Weights

_PREFIX = "base_model.model."


class LoraPair(NamedTuple):
    """The two matrices of one module: its weight, as (out, in), becomes W + scale · B A.

    Attributes:
        module: full name in the transformers model.
        a: shape (rank, in).
        b: shape (out, rank).
    """

    module: str
    a: Matrix
    b: Matrix


class LoraFiles:
    """An adapter on the disk.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        self.rank = int(config["r"])
        self.alpha = float(config["lora_alpha"])
        self._weights = Weights(folder)

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / self.rank

    def __len__(self) -> int:
        return len(self._weights) // 2

    def pairs(self) -> Iterator[LoraPair]:
        """All of it.

        Yields:
            One pair per adapted module.
        """
        for name in self._weights:
            if name.endswith(".lora_A.weight"):
                module = name.removesuffix(".lora_A.weight")
                b = self._weights[f"{module}.lora_B.weight"]
                yield LoraPair(module.removeprefix(_PREFIX), self._weights[name], b)
