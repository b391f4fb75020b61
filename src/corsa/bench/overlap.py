"""How much of what is measured is worded, or named, as in the packaged texts that training draws from.

Fresh wordings come from `data/templates.jsonl` and other subjects from `data/subjects_by_kind.jsonl`
(`corsa.variations`). They were written without the data sets, but there are only so many short ways to
ask one thing: what is right in a wording of its own is counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from corsa.matching import contains, normalise
from corsa.metrics import Number, Score, by_edit, mean, of_kind
from corsa.variations import library, subjects_by_kind


def overlap(
    scores: Sequence[Score], subjects: Mapping[tuple[int, str], str | None]
) -> dict[str, Number]:
    """Counts of what the packaged texts have, and the numbers without it.

    Args:
        scores: of all edits under one model.
        subjects: of the edits, by round and id.

    Returns:
        `library.paraphrases` and `library.neighbours`, how many of those measured are in the library;
        `unseen.generality` (exact), `unseen.generality_contains` and `unseen.leak` over the others.
    """
    paraphrases, neighbours = of_kind(scores, "paraphrase"), of_kind(scores, "locality")
    new = [s for s in paraphrases if not worded_alike(s.prompt, subjects[s.round, s.edit_id])]
    others = [s for s in neighbours if not names_a_packaged_subject(s.prompt)]
    return {
        "library.paraphrases": len(paraphrases) - len(new),
        "library.neighbours": len(neighbours) - len(others),
        "unseen.generality": mean(by_edit(new, lambda s: s.exact)),
        "unseen.generality_contains": mean(by_edit(new, lambda s: s.contains)),
        "unseen.leak": mean(score.leak for score in others),
    }


def worded_alike(prompt: str, subject: str | None) -> bool:
    """Whether a prompt is a packaged template about its subject, whatever stands before it.

    Args:
        prompt: any.
        subject: what it is about.

    Returns:
        Whether the prompt ends with a template of any relation, filled with the subject; case and
        white space do not count.
    """
    text = normalise(prompt)
    return bool(subject) and any(
        text.endswith(known) and not text.removesuffix(known)[-1:].isalnum()
        for known in _filled(str(subject))
    )


@cache
def _filled(subject: str) -> tuple[str, ...]:
    return tuple(normalise(subject.join(parts)) for found in library() for parts in found.templates)


def names_a_packaged_subject(prompt: str) -> bool:
    """Whether a prompt names one of the packaged subjects.

    Args:
        prompt: any.

    Returns:
        Whether one stands in it, not inside a longer word.
    """
    text = normalise(prompt)
    return any(name in text and contains(prompt, name) for name in _names())


@cache
def _names() -> tuple[str, ...]:
    names = (name for kind in subjects_by_kind().values() for name in kind)
    return tuple(dict.fromkeys(map(normalise, names)))
