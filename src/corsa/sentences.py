"""Where a first sentence ends."""

from __future__ import annotations

_TITLES = {"Dr", "Mr", "Mrs", "Ms", "Prof", "St", "Jr", "Sr", "vs", "No"}


def first_sentence(text: str) -> str:
    """The first sentence of a reply.

    Args:
        text: any text.

    Returns:
        Up to the first `.`, `!` or `?` before white space, initials and titles aside, or to the end
        of the first line that is not empty.
    """
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    for i, char in enumerate(line[:-1]):
        if char in ".!?" and line[i + 1].isspace() and not _is_abbreviation(line[: i + 1]):
            return line[: i + 1]
    return line


def _is_abbreviation(text: str) -> bool:
    word = text.split()[-1].rstrip(".")
    return word in _TITLES or (word != "" and all(len(part) == 1 for part in word.split(".")))
