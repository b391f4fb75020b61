"""How much of what is measured is worded, or named, as in the packaged texts that training draws from.

Fresh wordings come from `data/templates.jsonl` and other subjects from `data/subjects_by_kind.jsonl`
(`corsa.variations`); where no relation is near, rules make them (`corsa.rewording`). Both were written
without the data sets, but there are only so many short ways to ask one thing: what is right in a wording
of its own is counted apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from corsa.edits import Edit
from corsa.matching import normalise
from corsa.metrics import Number, Score, by_edit, mean, of_kind
from corsa.naming import with_subject
from corsa.variations import library, packaged_subjects_in, topic_of


def overlap(scores: Sequence[Score], edits: Mapping[tuple[int, str], Edit]) -> dict[str, Number]:
    """Counts of what the packaged texts have, and the numbers without it.

    Args:
        scores: of all edits under one model.
        edits: all of them, by round and id.

    Returns:
        `library.paraphrases`, how many of those measured training may draw, and `library.neighbours`,
        how many name a packaged subject;
        `unseen.generality` (exact), `unseen.generality_contains` and `unseen.leak` over the others.
    """
    paraphrases, neighbours = of_kind(scores, "paraphrase"), of_kind(scores, "locality")
    wordings = {key: _wordings(edit) for key, edit in edits.items()}
    new = [s for s in paraphrases if not _ends(s.prompt, wordings[s.round, s.edit_id])]
    others = [s for s in neighbours if not packaged_subjects_in(s.prompt)]
    return {
        "library.paraphrases": len(paraphrases) - len(new),
        "library.neighbours": len(neighbours) - len(others),
        "unseen.generality": mean(by_edit(new, lambda s: s.exact)),
        "unseen.generality_contains": mean(by_edit(new, lambda s: s.contains)),
        "unseen.leak": mean(score.leak for score in others),
    }


def worded_alike(prompt: str, edit: Edit) -> bool:
    """Whether training may ask for an edit in these words, whatever stands before them.

    Args:
        prompt: any.
        edit: what it is about.

    Returns:
        Whether the prompt ends with a packaged template of any relation, filled with the edit's subject,
        or with a wording that the rules make of it; case and white space do not count.
    """
    return _ends(prompt, _wordings(edit))


def _ends(prompt: str, wordings: Sequence[str]) -> bool:
    text = normalise(prompt)
    return any(
        text.endswith(known) and not text.removesuffix(known)[-1:].isalnum() for known in wordings
    )


def _wordings(edit: Edit) -> tuple[str, ...]:
    """What ends a fresh wording of an edit; given paraphrases are no finding of the package."""
    edit = with_subject(dataclasses.replace(edit, train_paraphrases=()))
    subject = edit.subject
    if not subject:
        return ()
    templates = [parts for relation in library() for parts in relation.wordings()]
    made = [*templates, *topic_of(edit).others]
    return tuple(dict.fromkeys(normalise(subject.join(parts)) for parts in made))
