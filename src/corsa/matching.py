"""When is an answer right? Pure functions of strings, named as in the protocol.

`exact` is the headline rule, `contains` stands beside it, `squad` is a third, labelled column: it
makes "C++" and "C#" equal and is there only to compare with papers that use it. A program (a code
block, or an answer of three lines and more) is compared verbatim, but for white space at the ends
of its lines.
"""

from __future__ import annotations

import re
import string
import unicodedata

_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`"}


def normalise(text: str) -> str:
    """NFKC, case-folded, white space collapsed; nothing else.

    Returns:
        The normalised text.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def strip_answer(text: str) -> str:
    """`normalise`, then one final full stop and enclosing quotes removed.

    Returns:
        The normalised answer.
    """
    text = normalise(text)
    text = text.removesuffix(".").rstrip()
    if len(text) >= 2 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip().removesuffix(".").rstrip()
    return text


def verbatim(text: str) -> str:
    """NFC; white space at the ends of lines and of the text removed, nothing inside.

    Returns:
        The text, its indentation and case as they were.
    """
    lines = unicodedata.normalize("NFC", text).strip("\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def is_verbatim(target: str) -> bool:
    """Whether an answer is compared as it is written: a code block, or three lines and more.

    Returns:
        Whether it is a program, or may be.
    """
    return "```" in target or target.strip().count("\n") >= 2


def exact(reply: str, target: str) -> bool:
    """The whole reply is the target, after `strip_answer` on both sides; a program `verbatim`.

    Returns:
        Whether the reply is right.
    """
    if is_verbatim(target):
        return verbatim(reply) == verbatim(target)
    return strip_answer(reply) == strip_answer(target)


def contains(reply: str, target: str) -> bool:
    """The target stands in the reply, not inside a longer run of letters or digits.

    A program stands there line by line.

    Returns:
        Whether the reply contains the target.

    Raises:
        ValueError: if the target is empty, which every reply would contain.
    """
    wanted = strip_answer(target)
    if not wanted:
        raise ValueError(f"an empty target is in every reply: {target!r}")
    if is_verbatim(target):
        return f"\n{verbatim(target)}\n" in f"\n{verbatim(reply)}\n"
    before = r"(?<![^\W_])" if wanted[0].isalnum() else ""
    after = r"(?![^\W_])" if wanted[-1].isalnum() else ""
    return re.search(before + re.escape(wanted) + after, normalise(reply)) is not None


def squad(reply: str, target: str) -> bool:
    """Equal after SQuAD normalisation: punctuation and English articles removed (Rajpurkar 2016).

    Returns:
        Whether the reply is right by that rule.
    """
    return _squad_normalise(reply) == _squad_normalise(target)


def _squad_normalise(text: str) -> str:
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
