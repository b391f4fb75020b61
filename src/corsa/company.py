"""What joins the steps of a round: earlier edits, fresh wordings, and what must stay as it is.

Everything is drawn anew at every step from its number alone: nothing has to be stored, and a round can
stop and go on anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import resources
from typing import NamedTuple

import numpy as np

from corsa.answerers import ModelAnswerer
from corsa.chat import Exchange
from corsa.config import Config
from corsa.edits import Edit
from corsa.matching import contains, normalise
from corsa.memory import remembered
from corsa.models import BaseModel
from corsa.naming import with_subject
from corsa.progress import Progress
from corsa.siblings import sibling_name, siblings
from corsa.step import Example
from corsa.variations import (
    Edited,
    Shape,
    Topic,
    library,
    near_misses,
    other_relation,
    other_subject,
    packaged_subjects_in,
    passing_remarks,
    positive,
    subjects_by_kind,
    topic_of,
    with_other_numbers,
)

# Tokens of an answer that are learned behind a fresh wording: those after them follow from these more
# than from the wording, and programs of hundreds of tokens would be most of a step.
_WORDED_TOKENS = 32
# Passing remarks that make a passage of plain text, and the tokens of it that are compared.
_REMARKS, _PASSAGE_TOKENS = 4, 32
# An answer of which only the first token's place is looked at: it need not be known.
_ANY = (0,)
# Tokens of a passing remark and of a packaged prompt, for an estimate.
_REMARK_TOKENS, _POOL_TOKENS = 18, 12
# Siblings of each word of a name, for names that are nearly it.
_SIBLINGS = 12
# Own prompts about other subjects that are made of each edit, to draw from.
_STRANGERS = 9
# Draws after which no other subject is looked for: every one was edited.
_TRIES = 8
# What is looked at when an adapter is solved for: packaged relations, other subjects in fresh wordings
# of each edit, passages of plain text.
_ASKED, _OTHERS, _PASSAGES = 350, 12, 120
# Tokens of the base model's replies to packaged prompts that are looked at then: most of what a model
# reads is what it says itself.
_READ_TOKENS = 32
# Streams of random numbers of a step, beside those of the pools.
_OWN, _REPLAYED, _ROUND, _PASSAGE, _LOST, _SOLVED, _COMPARED = 10, 11, 12, 13, 14, 15, 16


class Tokens(NamedTuple):
    """How much of it joins a step: tokens to learn, and tokens that the base model reads, too."""

    learned: float
    kept: float


class Company:
    """What joins each step.

    Args:
        base: the model.
        own: the edit of each of the round's own examples.
        earlier: edits of earlier rounds that hold, to be replayed or written beside.
        edited: all edits that hold, of this round and the earlier ones: never kept as they were.
        config: the settings.
        progress: told when the base model is asked.
    """

    def __init__(
        self,
        base: BaseModel,
        own: Sequence[Edit],
        earlier: Sequence[Edit],
        edited: Sequence[Edit],
        config: Config,
        progress: Progress,
    ) -> None:
        self.base = base
        self.config = config
        self.edited = Edited(map(with_subject, edited))
        self.earlier = list(map(with_subject, earlier))
        self.own = list(map(with_subject, own))
        worded = config.positives or config.solve
        pairs = config.contrast_dpo
        vary = worded or config.contrast or config.other_relations or pairs
        self.topics = self._topics(self.own) if vary else []
        replayed = worded or config.other_relations
        self.earlier_topics = self._topics(self.earlier) if replayed else []
        self._keeps = bool(own and config.keep_weight)
        self._progress = progress
        self._about_others = self._own_about_others() if self._keeps or pairs else []
        self._wanted, self._said = self._kept() if self._keeps else ([], [])
        pool = [x._replace(answer=x.answer[: config.keep_tokens]) for x in self._said]
        # What is kept, each with the number that joins every step.
        self._pools = [(self._wanted, config.batch_size), (pool, config.keep_pool)]
        plain = passing_remarks() if self._keeps and config.keep_plain else ()
        self._remarks = [remark for remark in plain if not self.edited.named_in(remark)]

    def ask(self) -> None:
        """Ask the base model what steps will need: a round that takes none does without."""
        _ = self._strangers if self._keeps else None
        _ = self._compared if self.config.contrast_dpo else None

    def __call__(self, step: int, own: Sequence[int], lost: Sequence[int] = ()) -> list[Example]:
        """What joins one step.

        Args:
            step: its number, from 0.
            own: indices of the round's own examples in it.
            lost: indices of earlier edits that came undone: they are replayed before all others.

        Returns:
            Examples to learn, then examples to keep, with what the base model says of them.
        """
        learned: list[Example] = []
        kept: list[Exchange] = []
        for index in self._replayed(step, lost):
            edit = self.earlier[index]
            # Earlier edits are remembered, not argued about: their y⁻ would double what a step costs.
            learned.append(Example(self.base.chat.exchange(edit.prompt, edit.target_new)))
            if self.earlier_topics:
                rng, topic = self._rng(step, _REPLAYED, index), self.earlier_topics[index]
                self._vary(edit, topic, rng, learned, kept, fresh=False)
                kept += self._else(topic, rng) if self._keeps else []
        for index in own if self.topics else ():
            rng = self._rng(step, _OWN, index)
            self._vary(self.own[index], self.topics[index], rng, learned, kept, fresh=True)
            if self._keeps:
                kept += self._apart(index, rng)
                kept += self._else(self.topics[index], rng)
            compared = self._compared[index] if self.config.contrast_dpo else []
            learned += [compared[i] for i in self._drawn(len(compared), 1, step, _COMPARED, index)]
        for number, (pool, count) in enumerate(self._pools, 1):
            kept += [pool[i] for i in self._drawn(len(pool), count, step, number)]
        for number in range(self.config.keep_plain if self._remarks else 0):
            kept.append(self._passage(self._rng(step, _PASSAGE, number)))
        return [*learned, *self._taught(kept)]

    def wordings(
        self, index: int, count: int, *, earlier: bool = False, stream: int = 0
    ) -> list[str]:
        """Fresh wordings of an edit, drawn before any step.

        Args:
            index: of the edit.
            count: how many are tried; one that comes twice, or does not fit, is left out.
            earlier: it is one of the earlier edits.
            stream: another number gives others.

        Returns:
            Prompts; none of them is the edit's own.
        """
        topics, edits = (self.earlier_topics, self.earlier) if earlier else (self.topics, self.own)
        if not topics:
            return []
        edit, topic = edits[index], topics[index]
        rng = self._rng(_SOLVED, int(earlier), stream, index)
        shapes = [self._wording(edit, topic, rng) for _ in range(count)]
        prompts = [shape.about(topic.subject) for shape in shapes if shape is not None]
        return [
            prompt
            for prompt in dict.fromkeys(prompts)
            if prompt != edit.prompt
            and self._fits(self.base.chat.exchange(prompt, edit.target_new))
        ]

    def of_the_same(self, index: int, count: int) -> list[str]:
        """Something else about an edit's subject, where nothing else about it was edited.

        Args:
            index: of one of the round's own edits.
            count: how many are tried.

        Returns:
            Prompts.
        """
        if not self.topics:
            return []
        topic, found = self.topics[index], list[str]()
        rng = self._rng(_SOLVED, 2, 0, index)
        for _ in range(count if self.edited.only_fact_of(topic.subject) else 0):
            prompt = other_relation(topic, rng)
            if prompt and self._stays(prompt, prompt, topic):
                found.append(prompt)
        return [*dict.fromkeys(found)]

    def to_keep(self, subject: str) -> dict[str, Exchange]:
        """What the round's edits ask to keep of what is said about a subject.

        Args:
            subject: its name; "": of nobody.

        Returns:
            Prompts that name it, with the beginning of what the base model answers.
        """
        given = zip(self._given(), self._wanted, strict=True) if self._wanted else ()
        return {prompt: x for prompt, x in given if subject and contains(prompt, subject)}

    def near(self, index: int, count: int, *, earlier: bool) -> list[tuple[str, str]]:
        """Fresh wordings of an edit about names that are nearly its subject.

        Args:
            index: of the edit.
            count: how many are tried: half of them names with words that the model takes for alike, the
                others such as end as the subject does, or begin so; half as many again of those that
                differ in their numbers alone.
            earlier: it is one of the earlier edits.

        Returns:
            Prompts with the name that each is about; none where no such name is found.
        """
        topics, edits = (self.earlier_topics, self.earlier) if earlier else (self.topics, self.own)
        if not topics or not topics[index].likes:
            return []
        edit, topic = edits[index], topics[index]
        rng = self._rng(_SOLVED, 4, int(earlier), index)
        found: dict[str, str] = {}
        # Names that differ in a number alone are nearest, and many: another year's, another version's.
        numbered = count // 2 if any(map(str.isdigit, topic.subject)) else 0
        for draw in range(count + numbered):
            other = topic.likes[int(rng.integers(len(topic.likes)))]
            words = topic.subject.split()
            names = near_misses(topic.subject, other, rng)
            names += [f"{other} {words[-1]}"] if len(words) > 1 else []
            if draw % 2 and (alike := sibling_name(topic.subject, self._siblings, rng)):
                names = [alike]
            shape = self._wording(edit, topic, rng) if names else None
            if shape is not None and shape.open:
                name = names[int(rng.integers(len(names)))]
                if draw >= count:
                    name = with_other_numbers(topic.subject, rng)
                prompt = shape.about(name)
                itself = normalise(name) == normalise(topic.subject)
                if not itself and self._stays(prompt, shape.alone(name), topic):
                    found[prompt] = name
        return [(p, name) for p, name in found.items() if self._fits(self._first(p))]

    def standing(self) -> list[list[Exchange]]:
        """What an edit must not change, to be looked at once and not to be trained on.

        Returns:
            Groups that count alike: what is kept with the base model's replies, the packaged relations
            about packaged subjects, fresh wordings about others, plain text.
        """
        rng = self._rng(_SOLVED, 3)
        # A reply that names what was edited is not to stay as it is; what was asked for is.
        named = [self.edited.named_in(self.base.tokenizer.decode(x.answer)) for x in self._said]
        replied = [
            *self._wanted,
            *(
                x._replace(answer=_ANY) if names else x
                for x, names in zip(self._said, named, strict=True)
            ),
        ]
        subjects = {
            kind: [name for name in names if not self.edited.measures(name)]
            for kind, names in subjects_by_kind().items()
        }
        asked = [
            self._first(prompt)
            for relation in library()
            for kind in relation.kinds
            if subjects[kind]
            for template in relation.wordings()
            for prompt in [
                Shape("", template).about(subjects[kind][int(rng.integers(len(subjects[kind])))])
            ]
            if not self.edited.named_in(prompt) and not self.edited.examines(prompt)
        ]
        chosen = self._drawn(len(asked), _ASKED, 0, _SOLVED)
        others = [prompt for part in self._about_others for prompt in part]
        for topic in self.topics:
            for _ in range(_OTHERS):
                shape = positive(topic, rng)
                others += self._others(shape, topic, 1, rng)
        plain = [self._passage(rng) for _ in range(_PASSAGES if self._remarks else 0)]
        groups = [
            replied,
            [asked[i] for i in sorted(chosen)],
            [self._first(prompt) for prompt in dict.fromkeys(others)],
            plain,
        ]
        return [kept for group in groups if (kept := [x for x in group if self._fits(x)])]

    def _topics(self, edits: Sequence[Edit]) -> list[Topic]:
        """What edits are about, among subjects that no probe measures."""
        return [
            topic._replace(likes=tuple(n for n in topic.likes if not self.edited.measures(n)))
            for topic in map(topic_of, edits)
        ]

    def _replayed(self, step: int, lost: Sequence[int]) -> list[int]:
        """Indices of the earlier edits of a step."""
        first = [lost[i] for i in self._drawn(len(lost), self.config.replay, step, _LOST)]
        others = [i for i in range(len(self.earlier)) if i not in lost]
        drawn = self._drawn(len(others), self.config.replay - len(first), step, 0)
        return [*first, *(others[i] for i in drawn)]

    def _vary(
        self,
        edit: Edit,
        topic: Topic,
        rng: np.random.Generator,
        learned: list[Example],
        kept: list[Exchange],
        *,
        fresh: bool,
    ) -> None:
        """Fresh wordings of an edit, and beside each the same wording about others."""
        chat, config = self.base.chat, self.config
        for _ in range(config.positives):
            shape = self._wording(edit, topic, rng)
            if shape is None:
                continue
            exchange = chat.exchange(shape.about(topic.subject), edit.target_new)
            if not self._fits(exchange):
                continue
            begun = exchange._replace(answer=exchange.answer[:_WORDED_TOKENS])
            learned.append(Example(begun, weight=config.positive_weight, fresh=fresh))
            if self._keeps:
                kept += map(self._first, self._others(shape, topic, config.contrast, rng))

    def _wording(self, edit: Edit, topic: Topic, rng: np.random.Generator) -> Shape | None:
        """A wording that is no other edit's and in no exam; `None` where all that are drawn are."""
        own = {normalise(text) for text in (edit.prompt, *edit.train_paraphrases)}
        for _ in range(_TRIES):
            shape = positive(topic, rng)
            text = shape.alone(topic.subject)
            others = self.edited.has_prompt(text) and normalise(text) not in own
            if not others and not self.edited.examines(text):
                return shape
        return None

    def _apart(self, index: int, rng: np.random.Generator) -> Iterator[Exchange]:
        """An edit's own prompt about others."""
        strangers = self._strangers[index]
        count = min(self.config.contrast, len(strangers))
        yield from (strangers[int(i)] for i in rng.choice(len(strangers), count, replace=False))

    def _else(self, topic: Topic, rng: np.random.Generator) -> Iterator[Exchange]:
        """Something else about an edit's subject, where nothing else about it was edited."""
        if rng.random() < self.config.other_relations and self.edited.only_fact_of(topic.subject):
            prompt = other_relation(topic, rng)
            if prompt and self._stays(prompt, prompt, topic):
                yield self._first(prompt)

    def _others(
        self, shape: Shape, topic: Topic, count: int, rng: np.random.Generator
    ) -> list[str]:
        """A wording about other subjects, none of which was edited; fewer where they all were."""
        prompts: list[str] = []
        for _ in range(_TRIES * count if shape.open and topic.likes else 0):
            if len(prompts) == count:
                break
            other = other_subject(topic, rng, self.config.near_miss)
            prompt = shape.about(other)
            if prompt not in prompts and self._stays(prompt, shape.alone(other), topic):
                prompts.append(prompt)
        return prompts

    def _stays(self, prompt: str, alone: str, topic: Topic) -> bool:
        """Whether a prompt may be kept as it is; `alone` is the prompt without what stands before it."""
        # The subject itself may be part of a longer name, which is another thing.
        named = self.edited.named_in(prompt, besides=topic.subject)
        return not named and not self.edited.examines(alone)

    def _first(self, prompt: str) -> Exchange:
        """A prompt with nothing but the place where a reply begins."""
        return Exchange(self.base.chat.prompt_ids(prompt), _ANY)

    def _passage(self, rng: np.random.Generator) -> Exchange:
        """Plain text: what is kept would all be dialogue without it, and plain text would drift."""
        count = min(_REMARKS, len(self._remarks))
        drawn = rng.choice(len(self._remarks), count, replace=False)
        text = " ".join(self._remarks[int(i)] for i in drawn)
        tokens = self.base.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.base.chat.passage(tokens[: _PASSAGE_TOKENS + 1])

    def _fits(self, exchange: Exchange) -> bool:
        limit = self.base.context_length
        return limit is None or len(exchange.prompt) + len(exchange.answer) <= limit

    def _taught(self, kept: Sequence[Exchange]) -> list[Example]:
        """Exchanges with what the base model says of every token along them."""
        kept = [exchange for exchange in kept if self._fits(exchange)]
        if not kept:
            return []
        with self.base.using(None):
            teachers = self.base.forward.distributions(kept)
        return [Example(x, teacher=teacher) for x, teacher in zip(kept, teachers, strict=True)]

    def _own_about_others(self) -> list[list[str]]:
        """Own prompts about other subjects, by edit."""
        config = self.config
        count, seed = _STRANGERS * bool(config.contrast or config.contrast_dpo), config.seed
        return [
            self._others(Shape("", topic.template), topic, count, rng)
            for number, topic in enumerate(self.topics)
            for rng in [np.random.default_rng([seed, _ROUND, number])]
        ]

    @cached_property
    def _siblings(self) -> dict[str, list[str]]:
        topics = [*self.topics, *self.earlier_topics]
        words = [word for topic in topics for word in topic.subject.split()]
        return siblings(self.base, words, _SIBLINGS)

    @cached_property
    def _strangers(self) -> list[list[Exchange]]:
        """Own prompts about others with what the base model says, by edit."""
        prompts = self._about_others
        asked = [prompt for part in prompts for prompt in part]
        replies = iter(self._replies(asked, self.config.keep_tokens))
        return [[next(replies) for _ in part] for part in prompts]

    @cached_property
    def _compared(self) -> list[list[Example]]:
        """For DPO alone: y⁺ after own prompts, and after the same about others, by edit."""
        chat = self.base.chat
        chosen = [chat.exchange(edit.prompt, edit.target_new) for edit in self.own]
        pairs = [
            (number, Exchange(chat.prompt_ids(prompt), chosen[number].answer))
            for number, prompts in enumerate(self._about_others)
            for prompt in prompts
        ]
        pairs = [(number, rejected) for number, rejected in pairs if self._fits(rejected)]
        with self.base.using(None):
            scores = self.base.forward.score([*chosen, *(rejected for _, rejected in pairs)])
        logps = [float(score.tokens.sum()) for score in scores]
        found: list[list[Example]] = [[] for _ in self.own]
        for (number, rejected), logp in zip(pairs, logps[len(chosen) :], strict=True):
            reference = logps[number], logp
            found[number].append(Example(chosen[number], rejected, reference, weight=0.0))
        return found

    def _kept(self) -> tuple[list[Exchange], list[Exchange]]:
        """What edits ask to keep, and the packaged prompts, with what the base model says to each."""
        config = self.config
        length = config.keep_tokens
        read = max(length, _READ_TOKENS) if config.solve else length
        # All are asked, so that every round asks the same: what is answered once is remembered.
        pool = pool_prompts() if config.keep_pool else []
        # Who says what is to stay knows better than a name in it.
        packaged = [
            said
            for p, said in zip(pool, self._replies(pool, read), strict=True)
            if not (self.edited.named_in(p) or self.edited.examines(p) or self._measures(p))
        ]
        return self._replies(self._given(), length), packaged

    def _measures(self, prompt: str) -> bool:
        """Whether what a packaged prompt is about is named by a probe of what must stay."""
        about = with_subject(Edit(prompt, "")).subject
        names = [*packaged_subjects_in(prompt), *([about] if about else [])]
        return any(map(self.edited.measures, names))

    def _given(self) -> list[str]:
        """What the round's edits ask to keep, each once."""
        asked = [p for edit in self.own for p in edit.keep if not self.edited.has_prompt(p)]
        return list(dict.fromkeys(asked))

    def _replies(self, prompts: Sequence[str], length: int) -> list[Exchange]:
        """Prompts with as many tokens of what the base model answers them."""
        if not prompts:
            return []

        def ask() -> list[tuple[int, ...]]:
            self._progress.begin("asking the base model what to keep", len(prompts))
            answerer = ModelAnswerer(self.base)
            replies = answerer.answers(prompts, length, progress=self._progress)
            return [reply.tokens for reply in replies]

        key = [*self.base.identity(), length, list(prompts)]
        return [
            Exchange(self.base.chat.prompt_ids(prompt), tuple(tokens))
            for prompt, tokens in zip(prompts, remembered("kept", key, ask), strict=True)
        ]

    def _drawn(self, size: int, count: int, step: int, *number: int) -> list[int]:
        rng = self._rng(step, *number)
        return [int(i) for i in rng.choice(size, min(count, size), replace=False)] if size else []

    def _rng(self, *path: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *path])


def usual_tokens(config: Config, own: int, earlier: int, prompt: float, answer: float) -> Tokens:
    """What joins a step, for an estimate before a round begins.

    Args:
        config: the settings.
        own: the round's own edits in a step.
        earlier: edits that could be replayed.
        prompt: their prompts' usual length in tokens, without what all prompts begin with.
        answer: their answers' usual length in tokens.

    Returns:
        A guess.
    """
    replayed = min(config.replay, earlier)
    worded = config.positives * (own + replayed)
    alike = prompt + _REMARK_TOKENS
    learned = worded * (alike + min(answer, _WORDED_TOKENS)) + replayed * (prompt + answer)
    learned += own * (prompt + answer) * config.contrast_dpo
    kept = 0.0
    if config.keep_weight:
        kept += config.contrast * (worded * (alike + 1) + own * (prompt + config.keep_tokens))
        kept += config.keep_pool * (_POOL_TOKENS + config.keep_tokens)
        kept += config.keep_plain * _PASSAGE_TOKENS
    return Tokens(learned, kept)


def pool_prompts() -> list[str]:
    """The packaged prompts that an edit must not change; none of them is measured.

    Returns:
        The prompts of `data/pool.jsonl`.
    """
    text = resources.files("corsa").joinpath("data/pool.jsonl").read_text("utf-8")
    return [json.loads(line)["prompt"] for line in text.split("\n") if line]
