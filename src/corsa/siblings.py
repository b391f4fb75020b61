"""Words that a model takes for alike: Harvard and Yale for Princeton, III for II."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from corsa.models import BaseModel

# How a tokeniser marks that a word begins: byte-level BPE, SentencePiece.
_MARKS = ("Ġ", "▁")
# A word, and what is as short but counts kings and versions.
_WORD, _NUMERAL = re.compile(r"[A-Za-z]{3,}"), re.compile(r"[IVX]{1,5}")
# Letters in which other forms of the same word agree.
_STEM = 4
# Rows of the embedding that are looked at in one go.
_ROWS = 16_384


@torch.no_grad()
def siblings(base: BaseModel, words: Collection[str], count: int) -> dict[str, list[str]]:
    """The words whose embeddings are nearest, by the cosine from their mean.

    Args:
        base: the model.
        words: any; only those that are one token have siblings.
        count: how many of each.

    Returns:
        By word, the nearest first: written with a capital if it is, and no other form of it.
    """
    weight = base.hf.get_input_embeddings().weight
    vocabulary: Mapping[str, int] = base.tokenizer.get_vocab()
    found: dict[str, list[str]] = {}
    for mark in _MARKS if weight.is_floating_point() else ():
        # A tokenizer may have more tokens than the model has rows.
        known = {
            token.removeprefix(mark): number
            for token, number in sorted(vocabulary.items())
            if token.startswith(mark) and _counts(token.removeprefix(mark)) and number < len(weight)
        }
        asked = [word for word in dict.fromkeys(words) if word in known]
        if not asked:
            continue
        names = list(known)
        every = torch.tensor(list(known.values()), device=weight.device)
        parts = torch.split(every, _ROWS)
        mean = torch.stack([weight[part].float().sum(0) for part in parts]).sum(0) / len(every)

        def directions(numbers: torch.Tensor, mean: torch.Tensor = mean) -> torch.Tensor:
            return torch.nn.functional.normalize(weight[numbers].float() - mean, dim=1)

        own = directions(torch.tensor([known[word] for word in asked]).to(every))
        alike = torch.cat([directions(part) @ own.T for part in parts])
        for word, likeness in zip(asked, alike.T, strict=True):
            nearest = (names[i] for i in likeness.argsort(descending=True).tolist())
            others = (name for name in nearest if _is_sibling(name, word))
            found[word] = [name for name, _ in zip(others, range(count), strict=False)]
        break
    return found


def sibling_name(
    name: str, siblings: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> str | None:
    """Another name that a name could be taken for.

    Args:
        name: the name.
        siblings: of its words.
        rng: draws which words give way, one at the least, and to what.

    Returns:
        The other name; `None` where no word has siblings.
    """
    words = name.split()
    open_ = [i for i, word in enumerate(words) if siblings.get(word)]
    if not open_:
        return None
    must = open_[int(rng.integers(len(open_)))]
    for i in open_:
        if i == must or rng.random() < 1 / len(words):
            others = siblings[words[i]]
            words[i] = others[int(rng.integers(len(others)))]
    return " ".join(words)


def _counts(word: str) -> bool:
    return bool(_WORD.fullmatch(word) or _NUMERAL.fullmatch(word))


def _is_sibling(other: str, word: str) -> bool:
    if _NUMERAL.fullmatch(word):
        return bool(_NUMERAL.fullmatch(other)) and other != word
    written = other[0].isupper() == word[0].isupper() and not _NUMERAL.fullmatch(other)
    return written and other[:_STEM].casefold() != word[:_STEM].casefold()
