"""What a prompt is about where its edit does not say: the longest name in it. Text only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from corsa.edits import Edit

_WORD = re.compile(r"[^\s,;:?!\"“”()]+")
_POSSESSIVE = re.compile(r"['’]s?$")
# Small words inside a name: "Bank of the West".
_INSIDE = re.compile(r"of|the|and|for|de|la|le|el|del|da|do|du|des|van|von|der|al|&", re.I)
# Capitals that name nobody.
_PRONOUN = re.compile(
    r"i|we|you|he|she|they|my|our|your|their|these|those|each|every|some|any|all|both|no|one|many|most",
    re.I,
)
# Capitals at the beginning of a prompt that begin no name.
_OPENING = re.compile(
    r"what|which|who|whom|whose|when|where|why|how|is|are|was|were|does|did|do|can|could|in|on|at|by|for|"
    r"from|to|with|of|as|the|a|an|it|its|his|her|this|that|there|name|tell|give|state|write|complete|"
    r"implement|explain|describe|define|list|translate|create|use|show|find|answer|fill|say|please",
    re.I,
)


def with_subject(edit: Edit) -> Edit:
    """An edit with a subject: its own, or the longest name in its prompt.

    Args:
        edit: the edit.

    Returns:
        The edit; unchanged if it has a subject or its prompt names nothing.
    """
    if edit.subject:
        return edit
    names = [name for name in names_in(edit.prompt) if not _PRONOUN.fullmatch(name)]
    if names and _opens(edit.prompt, names[0], alone=len(names) == 1):
        names = names[1:]
    return replace(edit, subject=max(names, key=len, default="") or None)


def _opens(prompt: str, name: str, *, alone: bool) -> bool:
    """Whether a capital only begins the prompt: "Quelle est …?", "Currently, …"."""
    if " " in name or not prompt.startswith(name):
        return False
    rest = prompt[len(name) :]
    return (rest.startswith(",") and not alone) or (
        rest[:1] == " " and prompt.rstrip().endswith("?")
    )


def names_in(prompt: str) -> Iterator[str]:
    """Runs of capitalised words, small words and numbers inside them included.

    Args:
        prompt: any text.

    Yields:
        Names, in order.
    """
    start = end = 0  # of the name so far; none while they are equal
    before = None  # the word before
    for word in _WORD.finditer(prompt):
        bare = _POSSESSIVE.sub("", word[0]).rstrip(".")
        apart = before is not None and (
            prompt[before.end() : word.start()].strip() or _POSSESSIVE.search(before[0])
        )
        if end > start and apart:
            yield prompt[start:end]
            start = end
        opening = before is None and _OPENING.fullmatch(bare) is not None
        if (bare[:1].isupper() and not opening) or (end > start and bare[:1].isdigit()):
            start = word.start() if start == end else start
            end = word.start() + len(bare)
        elif end > start and not _INSIDE.fullmatch(bare):
            yield prompt[start:end]
            start = end
        before = word
    if end > start:
        yield prompt[start:end]
