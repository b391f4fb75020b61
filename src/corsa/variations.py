"""Telling apart: a fact holds for its subject in any wording, and for no other subject. Text only.

A small round teaches a habit of answering rather than a fact. Two things tell them apart: the new answer
is asked for in wordings that never come twice (`positive`), and beside each stands the same prompt about
somebody else (`other_subject`), whose answer must stay. Nothing that is measured is looked at.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple, TypeVar

import numpy as np

from corsa.edits import Edit
from corsa.files import sha256_text
from corsa.matching import as_word, contains, normalise
from corsa.rewording import PREPOSITION, WH, rewordings

# What stands before, between and after the subject: one part alone names none.
Template = tuple[str, ...]
# Words of two templates that must be the same, by weight, for them to ask after the same thing.
_ALIKE = 0.34
# Words that say little of what is asked after. All others of a prompt must be ones that the relation
# is worded with: "vice" president, "when" somebody died.
_LIGHT = re.compile(
    r"an?|and|are|as|at|be|been|being|by|called|did|do|does|for|from|had|has|have|in|is|its?|named|of|on|or|"
    r"that|the|their|there|this|to|was|were|what|which|whose|with"
)
# They tell what is asked after in a question, and little in a sentence: "…, who plays the".
_ASKING = re.compile(r"how|when|where|whom?|why")
# What asks, with or without its mark, or tells somebody to say; all else is to be finished. A fact that
# is taught in one of the two is often not said in the other.
_ASKS = re.compile(rf"[?？؟]|(?<!\.\.)[.:!]$|^(?:(?:{PREPOSITION}) )?(?:{WH})\b", re.IGNORECASE)
# How often a positive takes another template of its relation, and how often that stands behind a remark.
_OTHER_TEMPLATE, _REMARKED, _TWO_REMARKS = 0.7, 0.75, 0.3
_BETWEEN = (" ", " ", " ", " ", " ", " ", "\n\n", "\n")
# Of the other subjects that are no near-miss, those that are the subject and something more.
_LONGER = 0.375
_MORE = ("II", "III", "Jr.", "2", "X", "Plus", "Group", "Club", "Street", "Park")
# Questions about something else of a subject that a round asks, and those that suit any subject.
_BESIDES = 2
_OF_ANYTHING = (("What is ", " best known for?"), ("What can you tell me about ", "?"))
# Another year lies at most so far away, and so often later.
_YEARS_AWAY, _LATER = 40, 0.3
# Of other numbers than years so many differ in one digit.
_ONE_DIGIT = 0.5

T = TypeVar("T")


class Relation(NamedTuple):
    """What a prompt asks after.

    Attributes:
        name: for people.
        kinds: kinds of subjects it is asked of.
        templates: its wordings.
        questions: more of them, by which no prompt is matched: their words are those of other
            relations, too ("Who does {} play for?").
    """

    name: str
    kinds: tuple[str, ...]
    templates: tuple[Template, ...]
    questions: tuple[Template, ...]

    def wordings(self) -> tuple[Template, ...]:
        """All ways to ask after it.

        Returns:
            Its templates and the questions.
        """
        return self.templates + self.questions


class Shape(NamedTuple):
    """A prompt whose subject is left open.

    Attributes:
        before: passing remarks with what stands between them and the prompt; "" where there are none.
        template: the prompt.
    """

    before: str
    template: Template

    @property
    def open(self) -> bool:
        """Whether another subject can be put in."""
        return len(self.template) > 1

    def about(self, subject: str) -> str:
        """The prompt about a subject.

        Args:
            subject: its name.

        Returns:
            The prompt.
        """
        return self.before + self.alone(subject)

    def alone(self, subject: str) -> str:
        """The prompt about a subject without what stands before it.

        Args:
            subject: its name.

        Returns:
            The prompt.
        """
        return subject.join(self.template)


class Topic(NamedTuple):
    """What an edit is about, as far as what may be trained on tells.

    Attributes:
        subject: of the edit; "" where its prompt names none.
        template: the edit's own prompt.
        others: other templates that ask after the same.
        relation: found in the library; `None`: nothing there is near.
        likes: subjects of the relation's kinds; of all kinds without one.
    """

    subject: str
    template: Template
    others: tuple[Template, ...]
    relation: Relation | None
    likes: tuple[str, ...]


def topic_of(edit: Edit) -> Topic:
    """What an edit is about, from its prompt, subject and `train_paraphrases`.

    Args:
        edit: the edit.

    Returns:
        The topic.
    """
    subject = edit.subject or ""
    own = _template(edit.prompt, subject)
    relation = matching_relation(own) if len(own) > 1 else None
    given = [_template(text, subject) for text in edit.train_paraphrases]
    others = {_key(template): template for template in given}
    found = relation.wordings() if relation else _reworded(edit.prompt, subject)
    others |= {_key(template): template for template in found}
    others.pop(_key(own), None)
    kinds = subjects_by_kind()
    names = [name for kind in (relation.kinds if relation else kinds) for name in kinds[kind]]
    likes = tuple(name for name in dict.fromkeys(names) if not contains(edit.prompt, name))
    return Topic(subject if len(own) > 1 else "", own, tuple(others.values()), relation, likes)


def positive(topic: Topic, rng: np.random.Generator) -> Shape:
    """A wording of an edit's prompt that is not the prompt itself.

    Args:
        topic: of the edit.
        rng: decides.

    Returns:
        Another template, mostly behind remarks, or the edit's own behind remarks. Of the other ones as
        many ask as are to be finished.
    """
    if topic.others and rng.random() < _OTHER_TEMPLATE:
        before = _remarks(rng) if rng.random() < _REMARKED else ""
        kinds = [[t for t in topic.others if asks(t) is kind] for kind in (True, False)]
        return Shape(before, _one_of(_one_of([kind for kind in kinds if kind], rng), rng))
    return Shape(_remarks(rng), topic.template)


def asks(template: Template) -> bool:
    """Whether a prompt is a question or tells somebody to say; others are sentences to be finished.

    Args:
        template: the prompt.

    Returns:
        Whether it asks.
    """
    return bool(_ASKS.search("{}".join(template)))


def other_subject(topic: Topic, rng: np.random.Generator, near_miss: float) -> str:
    """Somebody else to put in the subject's place.

    Args:
        topic: of an edit with a subject.
        rng: decides.
        near_miss: how often it is half the subject, where that can be.

    Returns:
        A name that is not the subject: a near-miss, the subject and something more, or one of its kind.
    """
    like, luck = _one_of(topic.likes, rng), rng.random()
    misses = near_misses(topic.subject, like, rng)
    if luck < near_miss and misses:
        return _one_of(misses, rng)
    if near_miss <= luck < near_miss + _LONGER * (1 - near_miss):
        return f"{topic.subject} {_one_of(_MORE, rng)}"
    return like


def near_misses(subject: str, other: str, rng: np.random.Generator) -> list[str]:
    """Names that share a part of their words with a subject, or everything but its numbers.

    Args:
        subject: the name to miss.
        other: another name, whose words are taken.
        rng: draws digits.

    Returns:
        Names that are not the subject; none for a single word without digits.
    """
    words, theirs = subject.split(), other.split()
    made = []
    if len(words) > 1:
        made = [" ".join([*words[:-1], theirs[-1]]), " ".join([theirs[0], *words[1:]])]
        made += [f"{words[0]} {other}"] if len(theirs) > 1 else []
    if re.search(r"\d", subject):
        made.append(with_other_numbers(subject, rng))
    return [name for name in made if normalise(name) != normalise(subject)]


def with_other_numbers(name: str, rng: np.random.Generator) -> str:
    """A name with other digits.

    Args:
        name: the name.
        rng: draws them.

    Returns:
        The name of another year, or version; now and then the same.
    """
    return re.sub(r"\d+", lambda number: _another(number[0], rng), name)


def _another(number: str, rng: np.random.Generator) -> str:
    """Another number as long, half of them in one digit; for a year one that people write of, too."""
    if len(number) != 4 or number[0] == "0":
        digits = [str(rng.integers(10)) for _ in number]
        if rng.random() < _ONE_DIGIT:
            place = int(rng.integers(len(number)))
            digits = [*number[:place], digits[place], *number[place + 1 :]]
        return "".join(digits)
    away = int(rng.integers(1, _YEARS_AWAY + 1)) * (1 if rng.random() < _LATER else -1)
    return str(int(number) + away)


def other_relation(topic: Topic, rng: np.random.Generator) -> str | None:
    """A prompt that asks after something else of the same subject.

    Args:
        topic: of an edit.
        rng: decides.

    Returns:
        The prompt; `None` where it is not known what the edit itself asks after.
    """
    if topic.relation is None:
        return None
    own = {_key(template) for template in (topic.template, *topic.others)}
    chosen = _one_of([r for r in library() if r.name != topic.relation.name], rng)
    left = [template for template in chosen.wordings() if _key(template) not in own]
    return Shape("", _one_of(left, rng)).about(topic.subject) if left else None


def asked_besides(topic: Topic) -> list[str]:
    """What a round asks about something else of an edit's subject: an exam, the same every time.

    Args:
        topic: of the edit.

    Returns:
        Questions after relations that any subject of its kinds may have, drawn by their names, else
        such as anything can be asked; none where the prompt names no subject.
    """
    if not topic.subject:
        return []
    own = {_key(template) for template in (topic.template, *topic.others)}
    kinds = set(topic.relation.kinds) if topic.relation else set()
    others = [
        relation
        for relation in library()
        if kinds and kinds <= set(relation.kinds) and relation is not topic.relation
    ]
    others.sort(key=lambda relation: sha256_text(f"{topic.subject}\n{relation.name}"))
    found = (
        next((t for t in r.wordings() if asks(t) and _key(t) not in own), None) for r in others
    )
    chosen = [*filter(None, found), *_OF_ANYTHING][:_BESIDES]
    return [topic.subject.join(template) for template in chosen]


def matching_relation(template: Template) -> Relation | None:
    """The library's relation that is worded most alike.

    Words are weighted by how few relations have them; a template is as near as the share of all words of
    two templates that stand in both. A prompt with a word that no wording of a relation has asks after
    something else.

    Args:
        template: a prompt whose subject is left open.

    Returns:
        The relation; `None` where nothing is near.
    """
    wanted, rarity = _words(template), _rarity()

    def weight(words: Iterable[str]) -> float:
        return sum(rarity.get(word, 1.0) for word in sorted(words))

    best, found = _ALIKE, None
    asked = "?" in "".join(template)
    telling = {
        word
        for word in wanted
        if not _LIGHT.fullmatch(word) and (asked or not _ASKING.fullmatch(word))
    }
    for relation in library():
        if not telling <= _vocabulary(relation):
            continue
        for known in relation.templates:
            words = _words(known)
            whole = weight(wanted | words)
            near = weight(wanted & words) / whole if whole else 0.0
            # The first of equals stays; the first of all must reach the bound.
            if near > best + 1e-9 or (found is None and near >= _ALIKE):
                best, found = near, relation
    return found


class Edited:
    """All that was ever edited, and all that is measured of it.

    What the base model answers to what was edited is outdated and must not be kept, and of an exam
    nothing may be made by chance.

    Args:
        edits: the edits that hold, of this round and the earlier ones.
    """

    def __init__(self, edits: Iterable[Edit]) -> None:
        edits = list(edits)
        self._prompts = {normalise(t) for e in edits for t in (e.prompt, *e.train_paraphrases)}
        self._subjects = {normalise(edit.subject): edit.subject for edit in edits if edit.subject}
        self._probes = {
            normalise(p.prompt) for edit in edits for p in edit.locality + edit.portability
        }
        self._exam = self._probes | {normalise(p) for edit in edits for p in edit.paraphrases}
        facts = {(normalise(edit.subject or ""), normalise(edit.prompt)) for edit in edits}
        self._facts = Counter(subject for subject, _ in facts)
        self._kept = {normalise(prompt) for edit in edits for prompt in edit.keep}
        self._exam |= {normalise(prompt) for edit in edits for prompt in self.besides(edit)}
        self._measured: dict[str, bool] = {}

    def besides(self, edit: Edit) -> list[str]:
        """What a round asks about something else of an edit's subject.

        Args:
            edit: one of them.

        Returns:
            Questions; none where something else about it was edited, and none that is trained on.
        """
        if not self.only_fact_of(edit.subject or ""):
            return []
        trained = self._prompts | self._kept
        return [p for p in asked_besides(topic_of(edit)) if normalise(p) not in trained]

    def named_in(self, prompt: str, besides: str = "") -> bool:
        """Whether a prompt asks after an edit or names an edited subject.

        Args:
            prompt: the prompt.
            besides: a subject that it may name.

        Returns:
            Whether it must not be kept.
        """
        text = normalise(prompt)
        allowed = normalise(besides)
        return text in self._prompts or any(
            key in text and key != allowed and contains(prompt, subject)
            for key, subject in self._subjects.items()
        )

    def has_prompt(self, prompt: str) -> bool:
        """Whether a prompt is that of an edit, or one of its wordings that are trained on.

        Args:
            prompt: the prompt.

        Returns:
            Whether its answer changed.
        """
        return normalise(prompt) in self._prompts

    def examines(self, prompt: str) -> bool:
        """Whether a prompt is measured after the round.

        Args:
            prompt: the prompt.

        Returns:
            Whether nothing may be trained on it.
        """
        return normalise(prompt) in self._exam

    def measures(self, subject: str) -> bool:
        """Whether a probe of what must stay names a subject.

        Args:
            subject: its name.

        Returns:
            Whether no prompt about it may be trained on, in whatever words.
        """
        key = normalise(subject)
        if key not in self._measured:
            self._measured[key] = any(key in p and contains(p, key) for p in self._probes)
        return self._measured[key]

    def only_fact_of(self, subject: str) -> bool:
        """Whether one thing at most was edited about a subject.

        Args:
            subject: its name.

        Returns:
            Whether nothing else about it is outdated.
        """
        return self._facts[normalise(subject)] <= 1


@cache
def library() -> tuple[Relation, ...]:
    """The packaged relations.

    Returns:
        The lines of `data/templates.jsonl`.
    """
    rows = [json.loads(line) for line in _lines("templates.jsonl")]
    return tuple(
        Relation(
            row["relation"],
            tuple(row["subjects"]),
            *(
                tuple(tuple(text.split("{}")) for text in row[key])
                for key in ("templates", "questions")
            ),
        )
        for row in rows
    )


@cache
def subjects_by_kind() -> dict[str, tuple[str, ...]]:
    """The packaged subjects; none of them is measured by anything packaged.

    Returns:
        The lines of `data/subjects_by_kind.jsonl`: names by kind.
    """
    rows = [json.loads(line) for line in _lines("subjects_by_kind.jsonl")]
    return {row["kind"]: tuple(row["subjects"]) for row in rows}


def packaged_subjects_in(prompt: str) -> list[str]:
    """The packaged subjects that a prompt names.

    Args:
        prompt: any.

    Returns:
        Those that stand in it, not inside a longer word; case and white space do not count.
    """
    text = normalise(prompt)
    return [name for key, name in _subject_keys() if key in text and contains(text, key)]


@cache
def _subject_keys() -> tuple[tuple[str, str], ...]:
    names = dict.fromkeys(name for kind in subjects_by_kind().values() for name in kind)
    return tuple((normalise(name), name) for name in names)


@cache
def passing_remarks() -> tuple[str, ...]:
    """Packaged sentences about nothing in particular.

    Returns:
        The lines of `data/passing_remarks.txt`.
    """
    return tuple(_lines("passing_remarks.txt"))


def _lines(name: str) -> list[str]:
    text = resources.files("corsa").joinpath(f"data/{name}").read_text("utf-8")
    return [line for line in text.split("\n") if line]


def _template(prompt: str, subject: str) -> Template:
    """A prompt with its subject left open; in one part where it does not name it."""
    if not subject:
        return (prompt,)
    return tuple(re.split(as_word(subject), prompt, flags=re.IGNORECASE))


def _reworded(prompt: str, subject: str) -> tuple[Template, ...]:
    """Wordings by rules; none without a subject: beside each must stand the same about somebody else."""
    made = (_template(text, subject) for text in rewordings(prompt, subject))
    return tuple(template for template in made if len(template) > 1)


def _key(template: Template) -> str:
    return normalise("{}".join(template))


def _remarks(rng: np.random.Generator) -> str:
    count = 2 if rng.random() < _TWO_REMARKS else 1
    return " ".join(_one_of(passing_remarks(), rng) for _ in range(count)) + _one_of(_BETWEEN, rng)


def _one_of(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def _words(template: Template) -> frozenset[str]:
    """Its words; "plays" is "play"."""
    text = " ".join(template).lower().replace("'s", "")
    return frozenset(re.sub(r"(?<=\w{3})(?<!s)s$", "", w) for w in re.findall(r"[^\W\d_]+", text))


@cache
def _vocabulary(relation: Relation) -> frozenset[str]:
    return frozenset[str]().union(*map(_words, relation.templates))


@cache
def _rarity() -> dict[str, float]:
    """One over the number of relations that have a word."""
    counts = Counter(word for relation in library() for word in _vocabulary(relation))
    return {word: 1 / count for word, count in counts.items()}
