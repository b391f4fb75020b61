"""How a round begins in closed form: what is told of each edit, and what must stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from corsa import allocator
from corsa.chat import Exchange
from corsa.company import Company
from corsa.config import Config
from corsa.edits import Edit
from corsa.files import canonical_json, sha256_text
from corsa.matching import contains, normalise
from corsa.models import Adapter, BaseModel, adaptable_modules
from corsa.progress import Progress
from corsa.solving import Read, Site, read, sites, write
from corsa.step import PHRASE, Example, score_examples
from corsa.values import SENTENCE, Told, find, steps_for

# Prompts about something else of an edit's subject in a step, and of those that edits ask to keep;
# wordings by which its last token is known, and about names that are nearly the subject; wordings of an
# earlier edit at which nothing may change; wordings that were not solved for, by which it is told
# whether an edit is general.
_SAME_SUBJECT, _KEPT, _KEYS, _NEAR, _EARLIER, _UNSEEN = 2, 4, 180, 100, 2, 2
# Share of a layer's rank up to which it is given neurons before the next layer is: as much again makes
# up for those that are given away.
_MADE_UP = 0.5
# Times what was written is looked at, and found again where it is wrong.
_REPAIRS = 3
# Streams of wordings from this on are not solved for.
_ELSE = 1_000_000
# For an estimate: passing remarks a wording stands behind, in tokens; steps in which values are found,
# the mean over edits; tokens of what must stand.
_REMARKED_TOKENS, _USUAL_STEPS, _STANDING_TOKENS = 18, 22, 24_000


class Own(NamedTuple):
    """One of a round's own prompts: its text, and the example it is trained as."""

    prompt: str
    example: Example


class _Subject(NamedTuple):
    """What is told of one subject: its facts share a token, so they share a value.

    Attributes:
        own: indices of the round's own prompts about it.
        facts: of these the first of each edit: what is made of an edit is made once.
        earlier: indices of earlier edits of it, which must hold beside them.
    """

    own: list[int]
    facts: list[int]
    earlier: list[int]


# What was computed before an interruption, by name, or is computed now: plain data.
Remember = Callable[[str, Callable[[], Any]], Any]


def solve(
    adapter: Adapter,
    own: Sequence[Own],
    company: Company,
    config: Config,
    progress: Progress,
    remember: Remember,
) -> dict[str, Any] | None:
    """Find what the subjects of a round must carry, and write it into the adapter.

    Edits with an answer longer than a sentence are left to training: one vector says no program. So are
    subjects for which the adapter's rank has no room.

    Args:
        adapter: what is written into; it must be acting.
        own: the round's own prompts, in the order of `company.own`.
        company: what is asked beside them.
        config: the settings.
        progress: told how far it is.
        remember: keeps what was found.

    Returns:
        How it went, plain data; `None` where nothing was solved for.
    """
    short = [i for i, one in enumerate(own) if len(one.example.chosen.answer) <= SENTENCE]
    places = list(sites(adapter, config, own[short[0]].example.chosen)) if short else []
    if not places:
        return None
    begun = _Begun(adapter, own, company, config, progress, places, remember)
    try:
        before = begun.earlier_right()
        left = begun.carry(begun.subjects(short))
        if left:
            why = "start a store with a higher rank, one for every subject it will hold"
            if not neurons(adapter, config, own[short[0]].example.chosen):
                why = "earlier rounds trained its layers; a new store that begins with neurons has room"
            progress.say(
                f"the adapter has no room for {len(left)} of the round's subjects, and they are "
                f"trained: {why}"
            )
        # A subject may be another's answer, or part of another's name, and what it carries in the way.
        for _ in range(_REPAIRS):
            wrong = begun.wrong(before)
            if not wrong or begun.carry(wrong):
                break
    finally:
        adapter.base.forget_copies()  # those in `train_dtype`: training may not follow
        allocator.give_back()
    if not begun.layers:
        return None
    solved = begun.solved
    unseen = [
        Example(exchange)
        for i in solved
        for wording in company.wordings(i, _UNSEEN, stream=_ELSE)
        for exchange in [adapter.base.chat.exchange(wording, company.own[i].target_new)]
        if exchange.prompt not in begun.worded
    ]
    right = begun.right(unseen)
    return {
        "edits": len({company.own[i].id for i in solved}),
        "layers": begun.layers,
        "right": _share(begun.right([own[i].example for i in solved])),
        "unseen": _share(right) if unseen else None,
    }


def _share(right: Sequence[bool]) -> float:
    return round(sum(right) / len(right), 6) if right else 1.0


@dataclass
class _Begun:
    """A round that begins in closed form: where it stands.

    Attributes:
        layers: how each that was written went.
        solved: indices of own prompts whose subject was.
        worded: the wordings in which their values were found, and by which their subjects are known, in
            tokens.
    """

    adapter: Adapter
    own: Sequence[Own]
    company: Company
    config: Config
    progress: Progress
    places: Sequence[Site]
    remember: Remember
    layers: list[dict[str, Any]] = field(default_factory=list)
    solved: list[int] = field(default_factory=list)
    worded: set[tuple[int, ...]] = field(default_factory=set)
    _read: Read | None = None
    _streams: int = 0  # of wordings, that were drawn from

    def right(self, examples: Sequence[Example]) -> list[bool]:
        """Which answers are right with the adapter as it is."""
        alone = [example._replace(rejected=None) for example in examples]
        with self.adapter.base.using(self.adapter.name):
            scores = score_examples(self.adapter.base.forward, alone) if alone else []
        return [score.right for score in scores]

    def subjects(self, own: Sequence[int], earlier: Iterable[int] = ()) -> list[_Subject]:
        """The subjects of some own prompts and earlier edits, with all that is told of them."""
        company, chat = self.company, self.adapter.base.chat
        groups: dict[str, _Subject] = {}
        for i in own:
            group = groups.setdefault(_key(company.own[i]), _Subject([], [], []))
            group.own.append(i)
            if company.own[i] not in [company.own[known] for known in group.facts]:
                group.facts.append(i)
        for i in earlier:
            groups.setdefault(_key(company.earlier[i]), _Subject([], [], []))
        for i, edit in enumerate(company.earlier):
            its = groups.get(_key(edit))
            # One vector says no program: it was trained, and is left to training.
            if its and len(chat.exchange(edit.prompt, edit.target_new).answer) <= SENTENCE:
                its.earlier.append(i)
        return [group for group in groups.values() if group.own or group.earlier]

    def earlier_right(self) -> list[bool]:
        """Which earlier edits are right."""
        chat = self.adapter.base.chat
        return self.right(
            [Example(chat.exchange(e.prompt, e.target_new)) for e in self.company.earlier]
        )

    def wrong(self, before: Sequence[bool]) -> list[_Subject]:
        """The subjects of what was written and is wrong, and of earlier edits that have become so."""
        right = self.right([self.own[i].example for i in self.solved])
        own = {i for i, good in zip(self.solved, right, strict=True) if not good}
        now = zip(before, self.earlier_right(), strict=True)
        earlier = {i for i, (was, good) in enumerate(now) if was and not good}
        every = self.subjects(self.solved, range(len(before)))
        return [
            one for one in every if own.intersection(one.own) | earlier.intersection(one.earlier)
        ]

    def carry(self, subjects: Sequence[_Subject]) -> Sequence[_Subject]:
        """Find and write what some subjects carry; gives back those for which there is no room."""
        left = subjects
        # Neurons read what is written below them, and what is written there later they were not told
        # apart from: a twentieth of it can open a gate. So upwards; from the top where all have some.
        holds = [bool(self.adapter.moved(site.reading[0]).any()) for site in self.places]
        top = max((i for i, some in enumerate(holds) if some), default=0)
        upwards = [*self.places[top:], *self.places[:top]]
        # Where there is no other layer to go on in, a round is not taken apart for it.
        halves = [(_MADE_UP, site) for site in upwards] if len(self.places) > 1 else []
        for share, site in [*halves, *((1.0, site) for site in reversed(self.places))]:
            if not left:
                break
            taken = self.adapter.moved(site.reading[0])
            # Of a rank above the layer's width that is no bound: neurons can run out, too. Of what
            # writes, the rank that no neuron has makes up for those given away.
            room = min(*map(self.adapter.room, site.reading), int((~taken).sum()))
            room = min(room, int(share * self.adapter.rank(site.down)) - int(taken.sum()))
            here, left = left[: max(room, 0)], left[max(room, 0) :]
            if here:
                self.layers.append(self._carried(here, site))
                self.solved += [i for one in here for i in one.own if i not in self.solved]
        return left

    def _carried(self, subjects: Sequence[_Subject], site: Site) -> dict[str, Any]:
        adapter, config, progress = self.adapter, self.config, self.progress
        asked = [list(self._asked(value, subject)) for value, subject in enumerate(subjects)]
        answers = (one.example.chosen.answer for part in asked for one in part)
        steps = steps_for(max(map(len, answers)), config)
        first, self._streams = self._streams, self._streams + steps + 2

        def worded(value: int, count: int, stream: int) -> Iterator[Told]:
            return self._worded(value, subjects[value], count, first + stream)

        def on_step(step: int, loss: float, fresh: float) -> None:
            progress.advance(min(step, 1), note=f"loss {loss:.2f} · fresh wordings {fresh:.0%}")

        def look() -> dict[str, Any]:
            progress.begin("finding what subjects must carry", steps)
            same, wanted = self._beside(subjects)

            def draw(step: int, left: Collection[int]) -> tuple[list[Told], list[Told]]:
                learned, kept = list[Told](), list[Told]()
                for value in left:
                    learned += [*asked[value], *worded(value, config.solve_wordings, step)]
                    kept += [*same[value][step % 2 :: 2], *_in_turn(wanted[value], step)]
                return learned, kept

            values = find(
                adapter.base, adapter.name, site.layer, len(subjects), draw, config, on_step
            )
            return values._asdict() | {"shifts": values.shifts.tolist()}

        # By what it is of, and where: what is found again may hang on a hair, and on the machine.
        whose = sha256_text(canonical_json([site.down, *([*one] for one in subjects)]))[:16]
        found = self.remember(f"values-{len(self.layers)}-{whose}", look)
        progress.begin("writing it into the adapter")
        keys = [list(worded(value, _KEYS, steps + 1)) for value in range(len(subjects))]
        self.worded |= {one.example.chosen.prompt for part in keys for one in part}
        for step in range(found["steps"] + 1):  # those that values were found in, by the same draws
            for value in range(len(subjects)):
                drawn = worded(value, config.solve_wordings, step)
                self.worded |= {one.example.chosen.prompt for one in drawn}
        told = [one for parts in zip(asked, keys, strict=True) for part in parts for one in part]
        held = self._held(subjects)
        near = [one for value, subject in enumerate(subjects) for one in self._near(value, subject)]
        shifts = torch.tensor(found["shifts"], device=adapter.base.device)
        # What a layer's MLP reads no neuron beside it changes: once for all that are written there.
        if self._read is None or self._read.site != site.down:
            self._read = read(adapter, site, self._standing)
        missing = write(adapter, site, told, shifts, near, held, self._read, config)
        return {
            "layer": site.down,
            "subjects": len(subjects),
            "steps": found["steps"],
            "loss": round(found["loss"], 6),
            "fresh": round(found["fresh"], 6),
            "missing": round(missing, 6),
        }

    def _asked(self, value: int, subject: _Subject) -> Iterator[Told]:
        """Its own prompts, and those of earlier edits of it."""
        base, company = self.adapter.base, self.company
        for i in subject.own:
            one = self.own[i]
            yield _told(base, one.prompt, one.example, company.own[i], value)
        for i in subject.earlier:
            yield from _worded(base, company.earlier[i], value, [company.earlier[i].prompt])

    def _worded(self, value: int, subject: _Subject, count: int, stream: int) -> Iterator[Told]:
        """Fresh wordings of the same."""
        base, company = self.adapter.base, self.company
        for edits, numbers in (company.own, subject.facts), (company.earlier, subject.earlier):
            for i in numbers:
                wordings = company.wordings(
                    i, count, earlier=edits is company.earlier, stream=stream
                )
                yield from _worded(base, edits[i], value, wordings, fresh=True)

    def _beside(self, subjects: Sequence[_Subject]) -> tuple[list[list[Told]], list[list[Told]]]:
        """What else is said of each subject by the base model, and what edits ask to keep of that."""
        base, company = self.adapter.base, self.company
        found: list[tuple[int, int, str, Exchange, bool]] = []
        for value, subject in enumerate(subjects):
            for i in subject.facts:
                for prompt in company.of_the_same(i, 2 * _SAME_SUBJECT):
                    begins = Exchange(base.chat.prompt_ids(prompt), (0,))
                    found.append((value, i, prompt, begins, False))
            for i in subject.facts[:1]:
                asked = company.to_keep(company.own[i].subject or "")
                found += [(value, i, prompt, exchange, True) for prompt, exchange in asked.items()]
        with base.using(None):
            teachers = base.forward.distributions([exchange for *_, exchange, _ in found])
        same, wanted = ([list[Told]() for _ in subjects] for _ in range(2))
        for (value, i, prompt, exchange, is_wanted), teacher in zip(found, teachers, strict=True):
            one = _told(base, prompt, Example(exchange, teacher=teacher), company.own[i], value)
            (wanted if is_wanted else same)[value].append(one._replace(wanted=is_wanted))
        return same, wanted

    def _near(self, value: int, subject: _Subject) -> Iterator[Told]:
        """Names that are nearly its own."""
        base, company = self.adapter.base, self.company
        for edits, numbers in (company.own, subject.facts), (company.earlier, subject.earlier):
            for i in numbers:
                for prompt, name in company.near(i, _NEAR, earlier=edits is company.earlier):
                    example = Example(base.chat.exchange(prompt, edits[i].target_new))
                    yield Told(example, base.chat.place_of(prompt, name), value)

    @cached_property
    def _standing(self) -> list[list[Exchange]]:
        return self.company.standing()

    def _held(self, subjects: Sequence[_Subject]) -> list[Told]:
        """Where nothing may change: at earlier edits' subjects, and the round's that are written."""
        company = self.company
        here = {(False, i) for one in subjects for i in one.own}
        here |= {(True, i) for one in subjects for i in one.earlier}
        there = [(True, i) for i in range(len(company.earlier))]
        there += [(False, i) for i in self.solved]
        held = list[Told]()
        for earlier, i in there:
            if (earlier, i) not in here:
                edit = (company.earlier if earlier else company.own)[i]
                wordings = company.wordings(i, _EARLIER, earlier=earlier)
                held += _worded(company.base, edit, 0, [edit.prompt, *wordings])
        return held


def neurons(adapter: Adapter, config: Config, probe: Exchange) -> list[str]:
    """The modules in which an adapter has neurons, and those in which a round can write some.

    Args:
        adapter: the adapter.
        config: the settings.
        probe: any exchange.

    Returns:
        Full names. What has neurons, whatever is set now, is not to be trained; of the others none of a
        layer that was, where all outputs have moved.
    """
    adapted = [name for name in adaptable_modules(adapter.base.hf) if adapter.acts_on(name)]
    few = {
        _within(name)
        for name in adapted
        for moved in [adapter.moved(name)]
        # As neurons are; where the rank is as many as there are outputs, that says nothing.
        if 0 < int(moved.sum()) <= adapter.rank(name) < len(moved)
    }
    found = [name for name in adapted if _within(name) in few]
    if config.solve:
        for site in sites(adapter, config, probe):
            if int(adapter.moved(site.reading[0]).sum()) <= adapter.rank(site.down):
                found += [*site.reading, site.down]
    return list(dict.fromkeys(found))


def _within(module: str) -> str:
    return module.rpartition(".")[0]


def _key(edit: Edit) -> str:
    """What the facts of one subject share: a name that stands in their prompts, and so a token."""
    named = edit.subject and contains(edit.prompt, edit.subject)
    return normalise(edit.subject or "") if named else f"\0{normalise(edit.prompt)}"


def usual_beginning(config: Config, edits: int, prompt: float, answer: float) -> float:
    """What a beginning costs, for an estimate before a round begins.

    Args:
        config: the settings.
        edits: that are solved for.
        prompt: their prompts' usual length in tokens, without what all prompts begin with.
        answer: their answers' usual length in tokens.

    Returns:
        A guess: tokens that go forward through the whole model; a way back to the values costs as much.
    """
    if not edits:
        return 0.0
    worded = prompt + _REMARKED_TOKENS
    step = edits * ((1 + config.solve_wordings) * (worded + answer) + _SAME_SUBJECT * prompt)
    _, last = config.solve_between()
    # Ways back end where the values are, and no weight has a gradient; what is written passes through
    # no layer above them, and half of a wording is behind its subject.
    steps = min(config.solve_steps, _USUAL_STEPS) * max(1, answer / PHRASE) * (2 - last)
    written = edits * (2 * _KEYS + _NEAR) * worded / 2 + _STANDING_TOKENS
    return step * steps + written * last


def _worded(
    base: BaseModel, edit: Edit, value: int, wordings: Sequence[str], *, fresh: bool = False
) -> Iterator[Told]:
    for wording in wordings:
        example = Example(base.chat.exchange(wording, edit.target_new), fresh=fresh)
        yield _told(base, wording, example, edit, value)


def _told(base: BaseModel, prompt: str, example: Example, edit: Edit, value: int) -> Told:
    return Told(example, base.chat.place_of(prompt, edit.subject or ""), value)


def _in_turn(told: Sequence[Told], step: int) -> list[Told]:
    """Some of what edits ask to keep: all of it comes as often."""
    count = min(_KEPT, len(told))
    return [told[(step * count + n) % len(told)] for n in range(count)]
