"""Telling apart: the edits' own prompts about other subjects, which must stay as they are.

A small round teaches a habit of answering rather than a fact about its subject: the new answer turns up
for every subject. The same prompt with another subject, kept as the base model answers it, leaves the
subject as the only thing to tell the two by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

import numpy as np

from corsa.edits import Edit
from corsa.matching import contains, normalise


def contrast_prompts(edits: Sequence[Edit], per_edit: int, seed: int) -> list[str]:
    """Prompts with their subject exchanged for one from the packaged pool.

    Only what is trained on is looked at, never what is measured.

    Args:
        edits: a round's edits; one without a subject, or whose prompt does not name it, gives none.
        per_edit: how many prompts to make of each.
        seed: which subjects are taken.

    Returns:
        The prompts, without repetition, in the order of the edits.
    """
    prompts: list[str] = []
    trained = [text for edit in edits for text in (edit.prompt, *edit.train_paraphrases)]
    free = [s for s in pool_subjects() if not any(contains(text, s) for text in trained)]
    for number, edit in enumerate(edits):
        if not edit.subject or not free:
            continue
        whole = re.compile(rf"(?<!\w){re.escape(edit.subject)}(?!\w)", re.IGNORECASE)
        if not whole.search(edit.prompt):
            continue
        drawn = np.random.default_rng([seed, number]).permutation(len(free))[:per_edit]
        prompts += [whole.sub(lambda _, s=free[i]: s, edit.prompt) for i in drawn]  # type: ignore[misc]
    return list(dict.fromkeys(prompts))


def without_edited(prompts: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    """Prompts that speak of nothing that was ever edited.

    Args:
        prompts: prompts to be kept as the base model answers them.
        edits: all edits that hold.

    Returns:
        Those that are no edit's prompt and name no edit's subject.
    """
    asked = {normalise(text) for e in edits for text in (e.prompt, *e.train_paraphrases)}
    subjects = {edit.subject for edit in edits if edit.subject}
    return [
        prompt
        for prompt in prompts
        if normalise(prompt) not in asked and not any(contains(prompt, s) for s in subjects)
    ]


def pool_subjects() -> list[str]:
    """Subjects of many kinds; none of them is measured by anything packaged.

    Returns:
        The lines of `data/subjects.txt`.
    """
    text = resources.files("corsa").joinpath("data/subjects.txt").read_text("utf-8")
    return text.split("\n")[:-1]
