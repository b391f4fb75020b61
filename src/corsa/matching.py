"""When is an answer right? Pure functions of strings, named as in the protocol.

`exact` is the headline rule, `contains` stands beside it, `squad` is a third, labelled column: it
makes "C++" and "C#" equal and is there only to compare with papers that use it. A program (a code
block, an answer of three lines and more, or what its edit says is one) is compared verbatim, but for
white space at the ends of its lines and around all of it.
"""

from __future__ import annotations

import re
import string
import unicodedata

# Letters of scripts that leave no space between words: a word ends anywhere among them.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)
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


def as_written(text: str) -> str:
    """NFC; white space at the ends of lines and around the text removed, nothing inside.

    Replies come without the white space around them, so it tells nothing of a target either.

    Returns:
        The text, its case and the indentation of all but its first line as they were.
    """
    lines = unicodedata.normalize("NFC", text).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def is_verbatim(target: str, said: bool | None = None) -> bool:
    """Whether an answer is compared as it is written: a code block, or three lines and more.

    Args:
        target: the answer.
        said: what its edit says of that; `None`: nothing.

    Returns:
        Whether it is a program, or may be.
    """
    return ("```" in target or target.strip().count("\n") >= 2) if said is None else said


def exact(reply: str, target: str, verbatim: bool | None = None) -> bool:
    """The whole reply is the target, after `strip_answer` on both sides; a program `as_written`.

    Args:
        reply: what was answered.
        target: what is right.
        verbatim: whether the target is a program; `None`: see `is_verbatim`.

    Returns:
        Whether the reply is right.
    """
    form = as_written if is_verbatim(target, verbatim) else strip_answer
    return form(reply) == form(target)


def contains(reply: str, target: str, verbatim: bool | None = None) -> bool:
    """The target stands in the reply, not inside a longer run of letters or digits.

    A program stands there `as_written`; one that looks like one by itself line by line.

    Args:
        reply: what was answered.
        target: what is right.
        verbatim: whether the target is a program; `None`: see `is_verbatim`.

    Returns:
        Whether the reply contains the target.

    Raises:
        ValueError: if the target is empty, which every reply would contain.
    """
    wanted = strip_answer(target)
    if not wanted:
        raise ValueError(f"an empty target is in every reply: {target!r}")
    if is_verbatim(target, verbatim):
        wanted, text = as_written(target), as_written(reply)
        if is_verbatim(target):
            return re.search(rf"(?m)^[ \t]*{re.escape(wanted)}$", text) is not None
    else:
        text = normalise(reply)
    return re.search(as_word(wanted), text) is not None


def as_word(text: str) -> str:
    """A pattern that finds a text, but not inside a longer run of letters or digits.

    Where a script leaves no space between words, nothing tells where they end: there it is found inside.

    Args:
        text: not empty.

    Returns:
        A regular expression.
    """
    before = "" if _UNSPACED.match(text[0]) or not text[0].isalnum() else r"(?<![^\W_])"
    after = "" if _UNSPACED.match(text[-1]) or not text[-1].isalnum() else r"(?![^\W_])"
    return before + re.escape(text) + after


def squad(reply: str, target: str) -> bool:
    """Equal after SQuAD normalisation: punctuation and English articles removed (Rajpurkar 2016).

    Returns:
        Whether the reply is right by that rule.
    """
    return _squad_normalise(reply) == _squad_normalise(target)


def _squad_normalise(text: str) -> str:
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
