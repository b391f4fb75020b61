"""Measuring an edited model against its base: the questions, the replies, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import product
from typing import Any

import torch

from corsa.answerers import Answerer, Reply
from corsa.edits import Edit
from corsa.errors import TemplateError
from corsa.matching import contains, exact, squad
from corsa.metrics import ELSEWHERE, Score, leaks
from corsa.planning import PlannedEdit
from corsa.progress import Progress

REPLY_TOKENS = 32
AGREEMENT_TOKENS = 5
KL_TOKENS = 16


@dataclass(frozen=True)
class Question:
    """One prompt to be measured; the fields are those of `Score`, and the edit's `verbatim`."""

    round: int
    edit_id: str
    kind: str
    prompt: str
    answers: tuple[str, ...] = ()
    target_new: str | None = None
    target_old: str | None = None
    verbatim: bool | None = None


def questions_of(planned: PlannedEdit) -> list[Question]:
    """Everything that is asked about one edit.

    Args:
        planned: the edit.

    Returns:
        The prompt itself, its paraphrases, locality and portability probes.
    """
    edit = planned.edit
    new: tuple[str, ...] = (edit.target_new,)
    asked = [("edit", edit.prompt, new), *(("paraphrase", p, new) for p in edit.paraphrases)]
    asked += [("locality", probe.prompt, probe.answers) for probe in edit.locality]
    asked += [("portability", probe.prompt, probe.answers) for probe in edit.portability]
    told = (edit.target_new, planned.target_old, edit.verbatim)
    return [
        Question(planned.round, edit.id, kind, prompt, answers, *told)
        for kind, prompt, answers in asked
    ]


def drift_questions() -> list[Question]:
    """The packaged questions about everything else.

    Returns:
        One question per line of `data/drift.jsonl`.
    """
    text = resources.files("corsa").joinpath("data/drift.jsonl").read_text("utf-8")
    return [
        Question(0, record["id"], "drift", record["prompt"], _tuple(record.get("answer")))
        for record in map(json.loads, text.split("\n")[:-1])
    ]


def reply_length(base: Any, questions: Sequence[Question]) -> int:
    """Where replies are cut: max(32, 1.5 × the longest target), in tokens.

    Args:
        base: a `BaseModel`, for its tokenizer.
        questions: what will be asked.

    Returns:
        A number of tokens.
    """
    targets = {target for q in questions for target in (q.target_new, *q.answers) if target}
    longest = max((len(base.tokenizer(t)["input_ids"]) for t in targets), default=0)
    return max(REPLY_TOKENS, int(1.5 * longest))


def reply_length_of(base: Any, edits: Sequence[Edit]) -> int:
    """Where replies to some edits' prompts are cut.

    Args:
        base: a `BaseModel`, for its tokenizer.
        edits: asked together.

    Returns:
        A number of tokens, as from `reply_length`.
    """
    targets = [Question(0, edit.id, "edit", edit.prompt, (edit.target_new,)) for edit in edits]
    return reply_length(base, targets)


def unusable(base: Any, edits: Sequence[Edit]) -> Iterator[tuple[Edit, str]]:
    """Which of some edits the model cannot take, and why.

    Args:
        base: a `BaseModel`.
        edits: asked together.

    Yields:
        The edit and what is wrong with it: an answer that the chat template does not write as it is, or
        a prompt that is too long (`too_long`).
    """
    for edit in edits:
        targets = filter(None, (edit.target_new, edit.target_old))
        for prompt, target in product((edit.prompt, *edit.train_paraphrases), targets):
            try:
                base.chat.exchange(prompt, target)
            except TemplateError as error:
                yield edit, f"the answer {target[:40]!r} cannot be written: {error}"
                break
    yield from too_long(base, edits)


def too_long(base: Any, edits: Sequence[Edit]) -> Iterator[tuple[Edit, str]]:
    """Which of some edits' prompts the model cannot read with room for a reply.

    Args:
        base: a `BaseModel`.
        edits: asked together: replies are cut where the longest target asks for it.

    Yields:
        The edit and what is too long, once for each prompt.
    """
    if (limit := base.context_length) is None:
        return
    length = reply_length_of(base, edits)
    for edit in edits:
        answers = (edit.target_new, *([edit.target_old] if edit.target_old else []))
        asked = [("prompt", p, answers) for p in (edit.prompt, *edit.train_paraphrases)]
        asked += [("keep prompt", p, ("",)) for p in edit.keep]
        asked += [("probe", p, ("",)) for p in edit.paraphrases]
        asked += [("probe", q.prompt, ("",)) for q in (*edit.locality, *edit.portability)]
        for what, prompt, replies in asked:
            room = max(len(base.tokenizer(reply)["input_ids"]) for reply in replies)
            used = len(base.chat.prompt_ids(prompt)) + max(room, length)
            if used > limit:
                yield (
                    edit,
                    f"the {what} {prompt[:40]!r}… with room for a reply takes {used} tokens and "
                    f"{base.source.name} reads {limit}: shorten it",
                )


def measure(
    questions: Sequence[Question],
    updated: Answerer,
    base: Answerer,
    base_replies: Sequence[Reply],
    *,
    max_new_tokens: int,
    system: str | None = None,
    progress: Progress,
    previous: Mapping[str, tuple[int, ...]],
    leaking: Sequence[str] = (),
) -> list[Score]:
    """Ask the edited model and score its replies.

    Args:
        questions: what is asked.
        updated: the edited model.
        base: the base model.
        base_replies: what the base answers, one per question.
        max_new_tokens: where replies are cut.
        system: a system prompt in place of the template's own.
        progress: told how far it is.
        leaking: targets that must not turn up in the reply to a drift question.
        previous: the first tokens of what the model answered before this round, by prompt.

    Returns:
        One score per question.
    """
    prompts = [question.prompt for question in questions]
    progress.begin("asking the updated model", len(prompts))
    replies = updated.answers(prompts, max_new_tokens, system, progress)
    scores = [
        _score(question, reply, before, previous.get(question.prompt), leaking)
        for question, reply, before in zip(questions, replies, base_replies, strict=True)
    ]
    _add_margins(scores, updated, base, system)
    progress.begin("comparing with the base model", len(scores))
    _add_kl(scores, base_replies, updated, base, system, progress)
    return scores


def _score(
    question: Question,
    reply: Reply,
    before: Reply,
    previous: tuple[int, ...] | None,
    leaking: Sequence[str],
) -> Score:
    answers, old, new = question.answers, question.target_old, question.target_new
    elsewhere = question.kind in ELSEWHERE
    foreign = leaking if question.kind == "drift" else [new]
    # Probes have answers of their own, of which the edit says nothing.
    how = question.verbatim if question.kind in ("edit", "paraphrase") else None
    says_old = old is not None and question.kind == "edit" and contains(reply.text, old, how)
    return Score(
        round=question.round,
        edit_id=question.edit_id,
        kind=question.kind,
        prompt=question.prompt,
        reply=reply.text,
        base_reply=before.text,
        target_new=new,
        target_old=old,
        answers=answers,
        exact=_any(exact, reply.text, answers, how),
        contains=_any(contains, reply.text, answers, how),
        squad=_any(squad, reply.text, answers),
        base_contains=_any(contains, before.text, answers, how),
        old=says_old and not contains(reply.text, new or "", how)
        if question.kind == "edit"
        else None,
        base_old=old is not None and contains(before.text, old, how)
        if question.kind == "edit"
        else None,
        leak=leaks(reply.text, before.text, foreign, answers) if elsewhere else None,
        agrees=first_tokens(reply) == first_tokens(before) if elsewhere else None,
        previous_agrees=first_tokens(reply) == previous if elsewhere and previous else None,
        first_tokens=first_tokens(reply) if elsewhere else (),
    )


def first_tokens(reply: Reply) -> tuple[int, ...]:
    """The tokens on which agreement is measured.

    Args:
        reply: a reply.

    Returns:
        The first 5, or fewer where the reply is shorter.
    """
    return reply.tokens[:AGREEMENT_TOKENS]


def _add_margins(
    scores: list[Score], updated: Answerer, base: Answerer, system: str | None
) -> None:
    places = [i for i, score in enumerate(scores) if score.kind == "edit"]
    prompts = [scores[i].prompt for i in places]
    new = [scores[i].target_new or "" for i in places]
    paired = [i for i in places if scores[i].target_old]
    asked = [scores[i].prompt for i in paired]
    old = [scores[i].target_old or "" for i in paired]
    under = [
        (
            who.logps(prompts, new, system),
            dict(zip(paired, who.logps(asked, old, system), strict=True)),
        )
        for who in (updated, base)
    ]
    for row, i in enumerate(places):
        (plus, minus), (base_plus, base_minus) = under
        scores[i] = replace(scores[i], teacher_forced=plus[row].right)
        if i not in minus:
            continue
        y_new, y_old = plus[row].tokens, minus[i].tokens
        scores[i] = replace(
            scores[i],
            margin=_digits(y_new.sum() - y_old.sum()),
            margin_per_token=_digits(y_new.mean() - y_old.mean()),
            base_margin=_digits(base_plus[row].tokens.sum() - base_minus[i].tokens.sum()),
        )


def _add_kl(
    scores: list[Score],
    base_replies: Sequence[Reply],
    updated: Answerer,
    base: Answerer,
    system: str | None,
    progress: Progress,
) -> None:
    places = [i for i, s in enumerate(scores) if s.kind in ELSEWHERE]
    places = [i for i in places if base_replies[i].tokens]
    prompts = [scores[i].prompt for i in places]
    tokens = [base_replies[i].tokens[:KL_TOKENS] for i in places]
    streams = (who.distributions(prompts, tokens, system) for who in (base, updated))
    for i, p, q in zip(places, *streams, strict=True):
        kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") / len(p)
        scores[i] = replace(scores[i], kl=_digits(kl))
        progress.advance()


def _any(
    rule: Callable[..., bool], reply: str, answers: Sequence[str], *how: bool | None
) -> bool | None:
    return any(rule(reply, answer, *how) for answer in answers) if answers else None


def _digits(value: torch.Tensor) -> float:
    return round(float(value), 6)


def _tuple(answer: str | list[str] | None) -> tuple[str, ...]:
    return () if answer is None else (answer,) if isinstance(answer, str) else tuple(answer)
