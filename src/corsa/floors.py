"""How much a model agrees with itself: the floor under every measure of agreement.

The same base model in another precision gives other first tokens to some prompts. An edited model
that agrees less often than that was changed; one that agrees as often cannot be told from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from corsa.answerers import Answerer, ModelAnswerer
from corsa.config import Config
from corsa.evaluation import AGREEMENT_TOKENS, first_tokens
from corsa.memory import each_remembered
from corsa.metrics import mean
from corsa.models import BaseModel, load_source
from corsa.progress import Progress, Silent

# A second copy of a larger model is not loaded only to measure a floor.
_LARGEST = 2_000_000_000
_OTHER: Mapping[str, Any] = {
    "float32": "bfloat16",
    "bfloat16": "float32",
    "float16": "float32",
    "float64": "float32",
}


def agreement_floors(
    model: BaseModel,
    base: Answerer,
    groups: Sequence[Sequence[str]],
    system: str | None = None,
    progress: Progress | None = None,
) -> list[float | None]:
    """Share of prompts to which the base begins its reply alike in float32 and in bfloat16.

    Whether it does is kept for each prompt in the user's cache, so that nothing is asked twice and the
    other copy of the model is loaded only for prompts that are new, once for all groups. Replies depend
    a little on what is decoded with them: prompts new in one group are decoded together, and what was
    found then stands whatever they are asked with later. So the same groups get the same numbers from
    one cache; from an empty one, or on another machine, rounding gives others, points apart.

    Args:
        model: the base model.
        base: who answers with it.
        groups: prompts of several measures.
        system: a system prompt in place of the template's own.
        progress: told what is asked.

    Returns:
        The share of each group; `None` without prompts, or where the model is too large to be loaded
        twice.
    """
    if model.hf.num_parameters() > _LARGEST:
        return [None] * len(groups)
    told = progress or Silent()

    @cache
    def twin() -> ModelAnswerer:
        config = Config(dtype=_OTHER[model.dtype], device=str(model.device))
        other = load_source(model.source, config, trust_remote_code=model.trust_remote_code)
        return ModelAnswerer(other)

    def alike(prompts: list[str]) -> list[bool]:
        told.begin("asking the base model in two precisions", 2 * len(prompts))
        theirs = twin().answers(prompts, AGREEMENT_TOKENS, system, told)
        ours = base.answers(prompts, AGREEMENT_TOKENS, system, told)
        return [first_tokens(a) == first_tokens(b) for a, b in zip(ours, theirs, strict=True)]

    key = [*model.identity(), system, AGREEMENT_TOKENS]
    return [
        mean(each_remembered("alike", key, list(dict.fromkeys(prompts)), alike))
        for prompts in groups
    ]
