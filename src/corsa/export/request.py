"""What is to be exported, and which forms there are. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corsa.ledger import Round
from corsa.planning import PlannedEdit
from corsa.progress import Progress
from corsa.sources import ModelSource

# For each format the types its numbers can be written in; the first is the default.
FORMATS: Mapping[str, Sequence[str]] = {
    "adapter": ("as trained",),
    "merged": ("f32", "bf16", "f16"),
    "gguf-lora": ("f32", "f16"),
    "gguf": ("f16", "f32", "q8_0"),
}


@dataclass(frozen=True)
class Request:
    """One round to be written in one form.

    Attributes:
        round: the round.
        standing: the edits that hold after it, those of earlier rounds first.
        model: name, revision and sha256 of the base model, as the store knows it.
        type: what the numbers are written in, one of the format's types.
        find_base: finds the base model on this disk, its hash checked.
        progress: told what goes on.
        trust_remote_code: whether the base model's repository may run its own code.
    """

    round: Round
    standing: Sequence[PlannedEdit]
    model: Mapping[str, Any]
    type: str
    find_base: Callable[[], ModelSource]
    progress: Progress
    trust_remote_code: bool = False
