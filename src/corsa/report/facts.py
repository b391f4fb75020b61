"""What became of every fact and of everything else that was asked, from the rounds on disk alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from corsa.ledger import Round
from corsa.metrics import ELSEWHERE, Number, Score, of_kind, score_from_record
from corsa.planning import PlannedEdit, holding

State = Literal["right", "not learned", "forgotten", "replaced", "not asked"]


class Asked(NamedTuple):
    """A prompt with the answers of both models.

    Attributes:
        score: what was asked, answered and measured.
        verdict: in a word or two.
        tone: whether that is good news.
        about: the fact it was asked because of; empty for the packaged questions.
        after: the round it was measured after.
    """

    score: Score
    verdict: str
    tone: str
    about: str
    after: int


class Fact(NamedTuple):
    """A fact of any round of the line, and how it stands under the model in use.

    Attributes:
        planned: the edit as it was planned.
        state: how it stands.
        note: what else there is to know, such as which round replaced it.
        score: its own prompt; `None` if it is not asked any more.
        probes: other wordings, neighbours, what follows from it.
    """

    planned: PlannedEdit
    state: State
    note: str
    score: Score | None
    probes: tuple[Asked, ...]

    @property
    def tone(self) -> str:
        """Whether its state is good news."""
        return {"right": "good", "replaced": "plain", "not asked": "plain"}.get(self.state, "bad")


class Told(NamedTuple):
    """Everything of one line of rounds.

    Attributes:
        facts: of all rounds, oldest first.
        leaked: prompts where a new answer turned up and does not belong.
        changed: prompts of other things that are answered otherwise than before.
        elsewhere: how many of other things were asked.
    """

    facts: list[Fact]
    leaked: list[Asked]
    changed: list[Asked]
    elsewhere: int

    def of_state(self, *states: State) -> list[Fact]:
        """The facts in some states.

        Args:
            states: which.

        Returns:
            The facts, in order.
        """
        return [fact for fact in self.facts if fact.state in states]

    @property
    def asked(self) -> list[Fact]:
        """The facts that hold and were asked."""
        return self.of_state("right", "not learned", "forgotten")


def tell_facts(line: Sequence[Round]) -> Told:
    """Read what the rounds of a line say about each fact.

    Args:
        line: oldest first; the last one is in use.

    Returns:
        All of it.
    """
    scores = {made.id: [score_from_record(r) for r in made.generations()] for made in line}
    history = [planned for made in line for planned in made.edits()]
    if not line:
        return Told([], [], [], 0)
    last = line[-1].id
    names = {planned.key: planned.edit.prompt for planned in history}
    now = scores[last]
    elsewhere = of_kind(now, *ELSEWHERE)
    return Told(
        list(_facts(history, scores, last)),
        [_asked(s, names, last) for s in elsewhere if s.leak],
        [_asked(s, names, last) for s in elsewhere if s.agrees is False],
        len(elsewhere),
    )


def _facts(
    history: Sequence[PlannedEdit], scores: Mapping[int, Sequence[Score]], last: int
) -> Iterator[Fact]:
    standing = {planned.key for planned in holding(history)}
    by = {key: planned for planned in history for key in planned.supersedes}
    own = {id: _by_key(found) for id, found in scores.items()}
    rounds = list(scores)
    for planned in history:
        now = own[last].get(planned.key, [])
        score = next((s for s in now if s.kind == "edit"), None)
        before = rounds[rounds.index(planned.round) : -1]
        was_right = any(
            s.exact for id in before for s in own[id].get(planned.key, []) if s.kind == "edit"
        )
        state, note = _state(planned, score, was_right=was_right)
        if planned.key not in standing:
            replacing = by[planned.key]
            state, note = "replaced", f"by round {replacing.round}: {replacing.edit.target_new}"
            score = None
        names = {planned.key: planned.edit.prompt}
        probes = [_asked(s, names, last) for s in now if s.kind != "edit"]
        kinds = {probe.score.kind for probe in probes}
        # Neighbours of earlier rounds are asked in their own round alone.
        probes += [
            _asked(s, names, planned.round)
            for s in own[planned.round].get(planned.key, [])
            if s.kind not in (*kinds, "edit")
        ]
        yield Fact(planned, state, note, score, tuple(probes))


def _by_key(scores: Sequence[Score]) -> dict[tuple[int, str], list[Score]]:
    found: dict[tuple[int, str], list[Score]] = {}
    for score in scores:
        if score.kind != "drift":
            found.setdefault((score.round, score.edit_id), []).append(score)
    return found


def _state(planned: PlannedEdit, score: Score | None, *, was_right: bool) -> tuple[State, str]:
    if score is None:
        return "not asked", "this round's examination left it out"
    if score.exact:
        return "right", "answered so before" if planned.already_said else ""
    note = "gives the old answer" if score.old else "part of the reply" if score.contains else ""
    return ("forgotten" if was_right else "not learned"), note


def _asked(score: Score, names: Mapping[tuple[int, str], str], after: int) -> Asked:
    verdict, tone = _verdict(score)
    return Asked(score, verdict, tone, names.get((score.round, score.edit_id), ""), after)


def _verdict(score: Score) -> tuple[str, str]:
    """What to say of one answer, the worst first."""
    if score.kind == "paraphrase":
        return ("right", "good") if score.exact else ("wrong", "bad")
    if score.kind == "portability":
        return ("right", "good") if score.contains else ("wrong", "bad")
    if score.leak:
        return "leaked", "bad"
    if score.base_contains and not score.contains:
        return "lost", "bad"
    if score.contains and score.base_contains is False:
        return "now right", "good"
    if score.agrees:
        return "as before", "good"
    return ("still right" if score.contains else "other words"), "plain"


def share(right: int, of: int) -> Number:
    """A share, where there is something to take it of.

    Args:
        right: how many.
        of: of how many.

    Returns:
        The share; `None` of nothing.
    """
    return right / of if of else None


def count_right(facts: Sequence[Fact], kind: str) -> tuple[int, int]:
    """How many probes of a kind are right, as measured after the last round.

    Args:
        facts: those that hold.
        kind: "paraphrase" or "portability".

    Returns:
        How many are right, and of how many.
    """
    probes: list[Any] = [p for fact in facts for p in fact.probes if p.score.kind == kind]
    return sum(probe.verdict == "right" for probe in probes), len(probes)
