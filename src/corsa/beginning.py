"""How a round begins in closed form: what is told of each edit, and what must stand beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from corsa.chat import Exchange
from corsa.company import Company
from corsa.config import Config
from corsa.edits import Edit
from corsa.models import Adapter, BaseModel
from corsa.progress import Progress
from corsa.solving import find_site, write
from corsa.step import PHRASE, Example, score_examples
from corsa.values import Told, find

# Prompts about something else of an edit's subject in a step; wordings of an earlier edit at which
# nothing may change; wordings that were not solved for, by which it is told whether an edit is general.
_SAME_SUBJECT, _EARLIER, _UNSEEN = 2, 2, 2
# Of what is solved for, by squared length: worth a word to the user.
_MUCH_LOST = 0.01
# Streams of wordings from this on are not solved for.
_ELSE = 1_000_000
# For an estimate: passing remarks a wording stands behind, in tokens; steps in which values are found,
# the mean over edits; tokens of what must stand.
_REMARKED_TOKENS, _USUAL_STEPS, _STANDING_TOKENS = 18, 25, 20_000


class Own(NamedTuple):
    """One of a round's own prompts: its text, and the example it is trained as."""

    prompt: str
    example: Example


def solve(
    adapter: Adapter, own: Sequence[Own], company: Company, config: Config, progress: Progress
) -> dict[str, Any] | None:
    """Find what the subjects of a round must carry, and write it into the adapter.

    Edits with an answer longer than a phrase are left to training: one vector says no program.

    Args:
        adapter: what is written into.
        own: the round's own prompts, in the order of `company.own`.
        company: what is asked beside them.
        config: the settings.
        progress: told how far it is.

    Returns:
        How it went, plain data; `None` where nothing can be solved for.
    """
    base = adapter.base
    short = [i for i, one in enumerate(own) if len(one.example.chosen.answer) <= PHRASE]
    site = find_site(adapter, config, own[short[0]].example.chosen) if short else None
    if site is None:
        return None
    # All prompts of an edit, its `train_paraphrases` too, share one value.
    ids = list(dict.fromkeys(company.own[i].id for i in short))
    values = {i: ids.index(company.own[i].id) for i in short}
    asked = {
        i: _told(base, own[i].prompt, own[i].example, company.own[i], value)
        for i, value in values.items()
    }
    same = {
        i: list(_kept(base, company.own[i], value, company.of_the_same(i, 2 * _SAME_SUBJECT)))
        for i, value in values.items()
    }
    earlier = [
        one
        for number, edit in enumerate(company.earlier)
        for one in _worded(
            base, edit, number, [edit.prompt, *company.wordings(number, _EARLIER, earlier=True)]
        )
    ]
    standing = company.standing()
    passes: list[dict[str, float]] = []
    seen: set[tuple[int, ...]] = set()

    def draw(step: int, left: Collection[int]) -> tuple[list[Told], list[Told]]:
        learned, kept = list[Told](), list[Told]()
        stream = len(passes) * (config.solve_steps + 1) + step
        for i, value in values.items():
            if value in left:
                wordings = company.wordings(i, config.solve_wordings, stream=stream)
                learned += [asked[i], *_worded(base, company.own[i], value, wordings, fresh=True)]
                kept += same[i][step % 2 :: 2]
        seen.update(one.example.chosen.prompt for one in learned)
        return learned, kept

    def on_step(step: int, loss: float, fresh: float) -> None:
        progress.advance(min(step, 1), note=f"loss {loss:.2f} · fresh wordings {fresh:.0%}")

    while len(passes) < config.solve_passes:
        progress.begin("finding what subjects must carry", config.solve_steps)
        found = find(base, adapter.name, site.layer, len(ids), draw, config, on_step)
        told, _ = draw(config.solve_steps, range(len(ids)))
        progress.begin("writing it into the adapter", len(site.projections))
        written = write(
            adapter, site, told, found.shifts, earlier, standing, config, progress.advance
        )
        unseen = [x for x in _unseen_of(own, company, len(passes)) if x.chosen.prompt not in seen]
        right = _share_right(adapter, [own[i].example for i in values])
        passes.append(
            {
                "steps": found.steps,
                "loss": round(found.loss, 6),
                "fresh": round(found.fresh, 6),
                "right": round(right, 6),
                "unseen": round(_share_right(adapter, unseen), 6),
                **{name: round(value, 6) for name, value in written.items()},
            }
        )
        if right == 1:
            break
    base.forget_copies()  # those in `train_dtype`: training may not follow
    if written["lost"] > _MUCH_LOST:
        progress.say(
            f"the adapter's rank holds {1 - written['lost']:.0%} of what was solved for: start a store "
            "with a higher rank, about one for every edit it will hold"
        )
    return {"edits": len(ids), "passes": passes}


def _share_right(adapter: Adapter, examples: Sequence[Example]) -> float:
    """Which part of some answers is right with the adapter as it is; of none all."""
    with adapter.base.using(adapter.name):
        scores = score_examples(adapter.base.forward, examples) if examples else []
    return sum(score.right for score in scores) / len(scores) if scores else 1.0


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
    worded = 1 + config.solve_wordings
    tokens = edits * (worded * (prompt + _REMARKED_TOKENS + answer) + _SAME_SUBJECT * prompt)
    _, last = config.solve_between()
    # Ways back end where the values are, and no weight has a gradient; what is written passes through
    # no layer above them.
    steps = min(config.solve_steps, _USUAL_STEPS) * (2 - last)
    return tokens * (steps + 3 * last) + _STANDING_TOKENS * last


def _unseen_of(own: Sequence[Own], company: Company, number: int) -> list[Example]:
    """Some wordings of every prompt from a stream that is not solved for; each number has its own."""
    return [
        Example(company.base.chat.exchange(wording, company.own[i].target_new))
        for i in range(len(own))
        for wording in company.wordings(i, _UNSEEN, stream=_ELSE + number)
    ]


def _worded(
    base: BaseModel, edit: Edit, value: int, wordings: Sequence[str], *, fresh: bool = False
) -> Iterator[Told]:
    for wording in wordings:
        example = Example(base.chat.exchange(wording, edit.target_new), fresh=fresh)
        yield _told(base, wording, example, edit, value)


def _told(base: BaseModel, prompt: str, example: Example, edit: Edit, value: int) -> Told:
    return Told(example, base.chat.place_of(prompt, edit.subject or ""), value)


def _kept(base: BaseModel, edit: Edit, value: int, prompts: Sequence[str]) -> Iterator[Told]:
    """What else is said of a subject, with what the base model says of it."""
    exchanges = [Exchange(base.chat.prompt_ids(prompt), (0,)) for prompt in prompts]
    with base.using(None):
        teachers = base.forward.distributions(exchanges)
    for prompt, exchange, teacher in zip(prompts, exchanges, teachers, strict=True):
        yield _told(base, prompt, Example(exchange, teacher=teacher), edit, value)
