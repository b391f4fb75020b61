"""How much a model agrees with itself: the floor under every measure of agreement.

The same base model in another precision gives other first tokens to some prompts. An edited model
that agrees less often than that was changed; one that agrees as often cannot be told from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corsa.answerers import ModelAnswerer, RememberingAnswerer
from corsa.config import Config
from corsa.evaluation import AGREEMENT_TOKENS, agreement
from corsa.memory import remembered
from corsa.metrics import Score
from corsa.models import BaseModel, load_source

# A second copy of a larger model is not loaded only to measure a floor.
_LARGEST = 2_000_000_000
_OTHER: Mapping[str, Any] = {
    "float32": "bfloat16",
    "bfloat16": "float32",
    "float16": "float32",
    "float64": "float32",
}


def agreement_floor(
    model: BaseModel,
    base: RememberingAnswerer,
    scores: Sequence[Score],
    system: str | None,
    *,
    keep: bool = False,
) -> float | None:
    """Share of prompts to which the base begins its reply alike in float32 and in bfloat16.

    Args:
        model: the base model.
        base: who answers with it.
        scores: the probes.
        system: a system prompt in place of the template's own.
        keep: remember the number in the user's cache; for prompts that come again.

    Returns:
        The share; `None` without probes, or where the model is too large to be loaded twice.
    """
    prompts = list(dict.fromkeys(score.prompt for score in scores))
    if not prompts or model.hf.num_parameters() > _LARGEST:
        return None

    def compute() -> float | None:
        config = Config(dtype=_OTHER[model.dtype], device=str(model.device))
        twin = load_source(model.source, config, trust_remote_code=model.trust_remote_code)
        theirs = ModelAnswerer(twin).answers(prompts, AGREEMENT_TOKENS, system)
        return agreement(base.answers(prompts, AGREEMENT_TOKENS, system), theirs)

    key = [*model.identity(), system, prompts]
    return remembered("floors", key, compute) if keep else compute()
