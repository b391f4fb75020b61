"""Other wordings of a prompt that no library knows: how it asks, and words that others stand for.

English, by rules, without looking at a model. What a rule does not understand it leaves alone, so a
prompt in another language or a program has no other wordings here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources

# What a prompt is asked in, where "{}" is the prompt; `_ASKED` begin in the middle of a sentence.
_ASKED = (
    "Tell me {}.",
    "Do you know {}?",
    "I would like to know {}.",
    "Can you say {}?",
    "Somebody asked me {}.",
    "Please find out {}.",
    "The question is {}.",
)
_QUESTION = (
    "Question: {} Answer:",
    "Quick question: {}",
    "{} Answer in a few words.",
    "Hello! {}",
    "A quiz asks: {}",
    "{} I forgot.",
)
_SENTENCE = (
    "Complete the sentence: {}",
    "Fill in what is missing: {} ...",
    "{} what?",
    "As everybody knows, {}",
    "To finish the sentence: {}",
    "{} ___",
)
WH = r"what|which|who|whom|whose|when|where|how many|how much|how"
PREPOSITION = r"in|at|on|by|of|for|from|to|with|into|through|near|after|about|as"
_BE = r"is|are|was|were"
# A noun phrase may follow: what is asked after can be named.
_NOUN = re.compile(rf"^(what|who|which) ({_BE}) ((?:the|today's) .+)$", re.IGNORECASE)
# Somebody did something: the order of words is that of a statement.
_DID = re.compile(
    r"^(?:who|which person|what person) (?!(?:is|are|was|were|has|have|had|do|does|did|can|will|"
    r"would|should|may|might)\b)(\w+ .+)$",
    re.IGNORECASE,
)
# Such a noun phrase lacks something, or has a verb of its own, and cannot stand alone.
_OPEN = re.compile(
    r"\b(?:called|named|known|renamed|given)\b|"
    rf"\b(?:located|made|found|used|born|based|{PREPOSITION})$",
    re.IGNORECASE,
)
# In "the N of …" such an N is what is named behind it: "the city of Oslo", not "the mayor of Oslo".
_CITY = (
    r"city|town|village|country|nation|state|province|region|county|district|continent|island|"
    r"field|area|sport|position|office|rank|language|religion|genre"
)
_YEAR = r"year|month|season|decade|century"
# What may be asked after, ahead of a form of "be", and how a sentence that lacks it may end.
_AFTER = rf"(what|who|whom|where|(?:in )?(?:what|which) (?:{_CITY}|{_YEAR}))"
_KIND = re.compile(rf"^(.*\b(?:{PREPOSITION})) the ({_CITY}) of$")
# "The maker of … is what?"
_LAST = re.compile(rf"^(.+) ({_BE}) (what|who|whom|when|where)$", re.IGNORECASE)


def rewordings(prompt: str, name: str) -> tuple[str, ...]:
    """Other wordings of a prompt.

    Args:
        prompt: a question, or the beginning of a sentence; of anything else there are none.
        name: a part of it that stays as it is.

    Returns:
        Each once, the prompt itself not among them.
    """
    text = " ".join(prompt.split())
    if "\n" in prompt.strip() or not text:
        return ()
    question = text.removesuffix("?").rstrip()
    if last := _LAST.match(question):
        question = f"{last[3]} {last[2]} {_lower(last[1])}"
    if text.endswith("?") and re.match(rf"(?:\w+ )?(?:{WH})\b", question, re.IGNORECASE):
        alike, otherwise, turned = _asked, _begun, _stated
    elif re.search(r"[\w,'\"]$", text):
        alike, otherwise, turned = _begun, _asked, _questions
    else:
        return ()
    found: dict[str, None] = {}
    for words in dict.fromkeys([question, *_exchanged(question, name)]):
        found |= dict.fromkeys(alike(words))
        for same in turned(words, name):
            found |= dict.fromkeys(otherwise(same))
    return tuple(wording for wording in found if wording != text)


def _asked(question: str, /) -> Iterator[str]:
    """Ways to ask a question, which comes without its mark."""
    whole, inside = f"{_upper(question)}?", _lower(question)
    yield whole
    if re.match(rf"(?:{WH})\b", question, re.IGNORECASE):
        yield from (frame.replace("{}", inside) for frame in _ASKED)
    yield from (frame.replace("{}", whole) for frame in _QUESTION)
    yield inside
    if (match := _NOUN.match(question)) and not _OPEN.search(match[3]):
        thing = match[3]
        yield from (f"{_upper(thing)} {match[2]}", f"Name {thing}.", f"{_upper(thing)}:")
    if match := _DID.match(question):
        yield from (f"The one who {match[1]} is", f"Name who {match[1]}.")


def _begun(sentence: str, /) -> Iterator[str]:
    """Ways to have a sentence finished."""
    yield sentence
    yield from (frame.replace("{}", sentence) for frame in _SENTENCE)


def _questions(sentence: str, name: str, /) -> Iterator[str]:
    """Questions for what a sentence lacks at its end, without their mark."""
    named = re.escape(name)
    if match := re.match(rf"^((?:the|today's|{named}'s) [^,]+) ({_BE})$", sentence, re.IGNORECASE):
        said = match[1].replace(name, "")
        if not re.search(rf"\b(?:and|who)\b|\b(?:{_BE}) .*\b(?:{_BE})\b", said):
            yield from (f"{asked} {match[2]} {_lower(match[1])}" for asked in ("what", "who"))
        return
    if not name or not (match := re.match(rf"^({named}) ([a-z]+)\b ?(.*)$", sentence)):
        return
    subject, verb, rest = match.groups()
    if kind := _KIND.match(rest):  # "in the city of": which city … in?
        asked, rest = f"which {kind[2]}", kind[1]
    else:
        asked, rest = "what", re.sub(r"(?:^| )(?:an?|the)$", "", rest)
    # What another verb is like in a question hangs on the verb.
    is_it = f"{verb} {subject}" if re.fullmatch(_BE, verb) else f"is it that {subject} {verb}"
    yield f"{asked} {is_it} {rest}".rstrip()


def _stated(question: str, name: str, /) -> Iterator[str]:
    """The beginnings of sentences that an answer ends."""
    pattern = rf"^(?i:{_AFTER}) ({_BE}) ({re.escape(name)}) ([a-z ]+)$"
    if not name or not (match := re.match(pattern, question)):
        return
    asked, verb, subject, rest = match.groups()
    asked = asked.lower()
    kind = asked.rpartition(" ")[2]
    within = re.search(rf"\b(?:{PREPOSITION})\b", rest)
    ends = within and within.end() == len(rest)
    if within and not ends:
        return
    said = f"{subject} {verb} {rest}"
    if asked in ("what", "who", "whom"):
        yield from [said] if ends else []
    elif asked == "where":
        yield said if ends else f"{said} in"
    elif ends or asked.startswith("in "):
        said = said if ends else f"{said} in"
        yield f"{said} the {kind}" if re.fullmatch(_YEAR, kind) else f"{said} the {kind} of"


def _exchanged(text: str, name: str) -> Iterator[str]:
    """A text with one phrase that another stands for, the name untouched."""
    for phrase, others in _interchangeable():
        pattern = rf"(?<![\w'-]){re.escape(phrase)}(?![\w'-])"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            if _inside(match, text, name):
                continue
            for other in others:
                yield text[: match.start()] + _cased(other, match[0]) + text[match.end() :]
            break  # the first place of each will do


def _inside(match: re.Match[str], text: str, name: str) -> bool:
    places = re.finditer(re.escape(name), text, re.IGNORECASE) if name else ()
    return any(p.start() < match.end() and match.start() < p.end() for p in places)


def _cased(word: str, like: str) -> str:
    return _upper(word) if like[:1].isupper() and not like.isupper() else word


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    """Without the capital that begins a question; a name at the beginning keeps its own."""
    first = re.match(rf"(?:{WH}|{PREPOSITION}|the|an?)\b", text, re.IGNORECASE)
    return text[:1].lower() + text[1:] if first else text


@cache
def _interchangeable() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Phrases and what stands for them."""
    text = resources.files("corsa").joinpath("data/interchangeable.txt").read_text("utf-8")
    rows = [tuple(part.strip() for part in line.split("|")) for line in text.splitlines() if line]
    return tuple((row[0], row[1:]) for row in rows)
