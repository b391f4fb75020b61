"""From lists of scores to numbers. Pure functions; every definition is in docs/metrics.md, too.

`None` stands for a number that cannot be had: no probes of that kind, or too few rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from corsa.matching import contains, exact

Number = float | None


# Kinds about something else, that an edit should leave as it was.
ELSEWHERE = ("locality", "subject", "drift")


@dataclass(frozen=True)
class Score:
    """One prompt, what base and edited model replied, and what was measured of it.

    Attributes:
        round: the round the edit belongs to; 0 for the packaged drift questions.
        edit_id: the edit the probe belongs to; of drift questions their own id.
        kind: "edit", "paraphrase", "locality", "portability", "subject" or "drift".
        prompt: what was asked.
        reply: the edited model's greedy reply.
        base_reply: the base model's.
        target_new: y⁺ of the edit.
        target_old: y⁻ of the edit.
        answers: what would be right for this prompt (y⁺ for edits and paraphrases).
        exact: the whole reply is one of `answers`.
        contains: one of `answers` stands in the reply.
        squad: equal after SQuAD normalisation.
        base_contains: one of `answers` stands in the base's reply.
        old: y⁻ stands in the reply and y⁺ does not.
        base_old: y⁻ stands in the base's reply.
        leak: a new target stands in the reply, is no right answer here and not in the base's reply.
        agrees: the first 5 tokens equal those of the base's reply.
        previous_agrees: likewise, with the reply before this round.
        kl: KL(base ‖ edited) in nats per token over the base's first 16 reply tokens.
        margin: log p(y⁺|x) − log p(y⁻|x) under the edited model, nats, summed over tokens.
        margin_per_token: the same with each log-probability divided by its number of tokens.
        base_margin: `margin` under the base model.
        teacher_forced: every token of y⁺ and end-of-turn is the arg-max under teacher forcing.
        first_tokens: of the reply, where agreement is measured, for the next round's comparison.
    """

    round: int
    edit_id: str
    kind: str
    prompt: str
    reply: str
    base_reply: str
    target_new: str | None = None
    target_old: str | None = None
    answers: tuple[str, ...] = ()
    exact: bool | None = None
    contains: bool | None = None
    squad: bool | None = None
    base_contains: bool | None = None
    old: bool | None = None
    base_old: bool | None = None
    leak: bool | None = None
    agrees: bool | None = None
    previous_agrees: bool | None = None
    kl: float | None = None
    margin: float | None = None
    margin_per_token: float | None = None
    base_margin: float | None = None
    teacher_forced: bool | None = None
    first_tokens: tuple[int, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """The score as plain data.

        Returns:
            A dict without the fields that do not apply.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value is not None and value != ()
        }


def mean(values: Iterable[float | None]) -> Number:
    """The mean of what is there.

    Args:
        values: numbers or truth values; `None` is left out.

    Returns:
        The mean, rounded to 6 digits so that it reads well; `None` of nothing.
    """
    there = [float(value) for value in values if value is not None]
    return round(sum(there) / len(there), 6) if there else None


def of_kind(scores: Iterable[Score], *kinds: str) -> list[Score]:
    """The scores of some kinds.

    Args:
        scores: any.
        kinds: as in `Score.kind`.

    Returns:
        Those scores, in order.
    """
    return [score for score in scores if score.kind in kinds]


def by_edit(scores: Iterable[Score], value: Callable[[Score], float | None]) -> list[Number]:
    """One number per edit: the mean over its probes, so that edits with many do not weigh more.

    Args:
        scores: of one kind.
        value: what is averaged.

    Returns:
        One mean per edit, in order of first appearance.
    """
    groups: dict[tuple[int, str], list[float | None]] = {}
    for score in scores:
        groups.setdefault((score.round, score.edit_id), []).append(value(score))
    return [mean(group) for group in groups.values()]


def accuracy(scores: Sequence[Score], kind: str) -> dict[str, Number]:
    """Share right by three rules, for edits ("reliability") or paraphrases ("generality").

    Args:
        scores: any.
        kind: which of them count.

    Returns:
        `exact` (the headline), `contains`, `squad`, and `n`, the number of prompts.
    """
    chosen = of_kind(scores, kind)
    return {
        "exact": mean(by_edit(chosen, lambda s: s.exact)),
        "contains": mean(by_edit(chosen, lambda s: s.contains)),
        "squad": mean(by_edit(chosen, lambda s: s.squad)),
        "n": len(chosen),
    }


def locality(scores: Sequence[Score], floor: Number) -> dict[str, Number]:
    """The four columns of what else changed, over locality or drift probes.

    Args:
        scores: probes of that kind alone.
        floor: agreement that the base has with itself in another precision.

    Returns:
        `leak`, `agreement` beside `agreement_floor` and `agreement_with_previous`,
        `kept_knowledge` of the `base_right` probes the base answers rightly, `kl`, `n`.
    """
    known = [score for score in scores if score.base_contains]
    return {
        "leak": mean(score.leak for score in scores),
        "agreement": mean(score.agrees for score in scores),
        "agreement_floor": floor,
        "agreement_with_previous": mean(score.previous_agrees for score in scores),
        "kept_knowledge": mean(score.contains for score in known),
        "base_right": len(known),
        "kl": mean(score.kl for score in scores),
        "n": len(scores),
    }


def leaks(
    reply: str,
    before: str,
    targets: Iterable[str | None],
    answers: Sequence[str],
    found: Callable[[str, str], bool] = contains,
) -> bool:
    """Whether a new answer turns up where it does not belong.

    Args:
        reply: of the edited model.
        before: the base model's.
        targets: new answers.
        answers: what would be right.
        found: rule by which a target is looked for in the reply.

    Returns:
        Whether one of the targets is found in the reply, is no right answer and not in the base's reply.
    """
    return any(
        target is not None
        and found(reply, target)
        and not contains(before, target)
        and not any(exact(target, answer) for answer in answers)
        for target in targets
    )


def leak_any(scores: Sequence[Score]) -> Number:
    """`leak`, and replies that are the new answer of another edit: a habit is not bound to one prompt.

    Of other edits the whole reply must be the answer. In long replies some target or other, "actor" or
    "Italian", stands by chance, nearly as often as targets that were never taught (docs/log.md).

    Args:
        scores: of all edits that hold and of the probes that are to be looked at.

    Returns:
        Share of the locality probes, or drift questions where there are none; `None` without either.
    """
    targets = {score.target_new for score in of_kind(scores, "edit")}
    probes = of_kind(scores, "locality") or of_kind(scores, "drift")
    return mean(
        bool(p.leak) or leaks(p.reply, p.base_reply, targets, p.answers, exact) for p in probes
    )


def margins(scores: Sequence[Score]) -> dict[str, Number]:
    """The margins of edits before any edit and now, in nats.

    Args:
        scores: any; edits count.

    Returns:
        Means and medians of sums and the mean per token, the lowest, and the share below zero.
    """
    edits = [score for score in of_kind(scores, "edit") if score.margin is not None]
    values = sorted(score.margin for score in edits if score.margin is not None)
    return {
        "mean": mean(values),
        "median": round(median(values), 6) if values else None,
        "lowest": values[0] if values else None,
        "mean_per_token": mean(score.margin_per_token for score in edits),
        "below_zero": mean(value < 0 for value in values),
        "base_mean": mean(score.base_margin for score in edits),
        "base_below_zero": mean(
            None if score.base_margin is None else score.base_margin < 0 for score in edits
        ),
        "n": len(edits),
    }


def known(scores: Sequence[Score]) -> list[Score]:
    """The scores of edits whose y⁻ the base model really gives: claims about conflict are made here.

    Args:
        scores: any.

    Returns:
        Edits the base answers with y⁻, with all their probes.
    """
    keys = {(s.round, s.edit_id) for s in of_kind(scores, "edit") if s.base_old}
    return [score for score in scores if (score.round, score.edit_id) in keys]


def reversion(scores: Sequence[Score]) -> dict[str, Number]:
    """How many edits fell back to their old answer.

    Args:
        scores: edits of earlier rounds.

    Returns:
        `replies`: the reply gives y⁻ again; `below_zero`: the margin is below zero; `n`.
    """
    edits = of_kind(scores, "edit")
    return {
        "replies": mean(score.old for score in edits),
        "below_zero": mean(None if s.margin is None else s.margin < 0 for s in edits),
        "n": len(edits),
    }


def retention(rows: Sequence[Sequence[Number]]) -> dict[str, Number]:
    """Forgetting and backward transfer of a lower-triangular matrix A[r][k].

    F = mean over k < R of (max_{l<R} A[l][k] − A[R][k]) (Chaudhry et al. 2018);
    BWT = mean over k < R of (A[R][k] − A[k][k]) (Lopez-Paz & Ranzato 2017).

    Args:
        rows: row r holds the score of each round's edits under the model after round r; `None` where
            a round has none that count.

    Returns:
        `forgetting` and `bwt`, `None` before the second round.
    """
    last = rows[-1] if rows else []
    forgot, moved = [], []
    for k in range(len(rows) - 1):
        now, then = last[k], rows[k][k]
        best = [row[k] for row in rows[k:-1]]
        past = [value for value in best if value is not None]
        if now is not None and then is not None and past:
            forgot.append(max(past) - now)
            moved.append(now - then)
    return {"forgetting": mean(forgot), "bwt": mean(moved)}


def forgotten(before: Sequence[Score], now: Sequence[Score]) -> list[dict[str, Any]]:
    """Edits of earlier rounds that were right before this one and are not any more.

    Args:
        before: what was measured after the round before.
        now: what was measured after this one.

    Returns:
        Plain data: round, id, prompt, y⁺ and the reply.
    """
    right = {(s.round, s.edit_id) for s in of_kind(before, "edit") if s.exact}
    return [
        {
            "round": score.round,
            "id": score.edit_id,
            "prompt": score.prompt,
            "target_new": score.target_new,
            "answer": score.reply,
        }
        for score in of_kind(now, "edit")
        if (score.round, score.edit_id) in right and not score.exact
    ]


def retention_report(
    rows: Sequence[tuple[int, Sequence[Score]]], holding: set[tuple[int, str]]
) -> dict[str, Any]:
    """What the last round of a line left of the rounds before it.

    Args:
        rows: for each round of the line, oldest first, its id and what was measured after it.
        holding: (round, id) of the edits that still hold; others are left out of every row, so that
            a row is compared with another over the same edits.

    Returns:
        `rounds`, and for reliability and generality the `matrix` with `forgetting` and `bwt`; and
        `reversion` of earlier rounds' edits. `known` has forgetting, transfer and reversion over the
        edits that the base answers with y⁻: only there do two answers conflict.
    """
    ids = [round_id for round_id, _ in rows]
    report: dict[str, Any] = {"rounds": ids}

    def matrix_of(kind: str, counted: set[tuple[int, str]]) -> list[list[Number]]:
        return [
            [_share(scores, k, kind, counted) for k in ids[: place + 1]]
            for place, (_, scores) in enumerate(rows)
        ]

    for name, kind in (("reliability", "edit"), ("generality", "paraphrase")):
        matrix = matrix_of(kind, holding)
        report[name] = {"matrix": matrix, **retention(matrix)}
    last, now = rows[-1]
    earlier = [s for s in now if s.round not in (0, last) and (s.round, s.edit_id) in holding]
    report["reversion"] = reversion(earlier) if len(rows) > 1 else None
    conflicting = {(s.round, s.edit_id) for s in known(now)} & holding
    report["known"] = {
        **retention(matrix_of("edit", conflicting)),
        "reversion": reversion(known(earlier))["replies"] if len(rows) > 1 else None,
    }
    return report


def _share(
    scores: Sequence[Score], round_id: int, kind: str, holding: set[tuple[int, str]]
) -> Number:
    chosen = [
        s for s in of_kind(scores, kind) if s.round == round_id and (s.round, s.edit_id) in holding
    ]
    return mean(by_edit(chosen, lambda s: s.exact))


def summary(scores: Sequence[Score], floors: dict[str, Number]) -> dict[str, Any]:
    """All numbers of some edits under one model.

    Args:
        scores: of these edits and, with kind "drift", of the packaged questions.
        floors: the agreement floor by kind.

    Returns:
        Plain data for JSON: the headlines `reliability`, `generality` and `leak` first.
    """
    reliability, generality = accuracy(scores, "edit"), accuracy(scores, "paraphrase")
    near, drift = of_kind(scores, "locality"), of_kind(scores, "drift")
    subject = of_kind(scores, "subject")
    edits, conflicting = of_kind(scores, "edit"), known(scores)
    measured = ("locality", near) if near else ("drift", drift)
    return {
        "reliability": reliability["exact"],
        "generality": generality["exact"],
        "leak": mean(score.leak for score in measured[1]),
        "portability": mean(by_edit(of_kind(scores, "portability"), lambda s: s.contains)),
        "reliability_rules": reliability,
        "generality_rules": generality,
        "locality": locality(measured[1], floors.get(measured[0])) | {"probes": measured[0]},
        "subject": locality(subject, floors.get("subject")) if subject else None,
        "drift": locality(drift, floors.get("drift")) if drift else None,
        "margins": margins(scores),
        "base_gives_old": mean(score.base_old for score in edits),
        "known": {
            "edits": len(of_kind(conflicting, "edit")),
            "reliability": accuracy(conflicting, "edit")["exact"],
            "generality": accuracy(conflicting, "paraphrase")["exact"],
            "leak": mean(score.leak for score in of_kind(conflicting, "locality")),
        },
    }


HEADLINES = (
    "reliability",
    "generality",
    "leak",
    "agreement",
    "kept_knowledge",
    "kl",
    "portability",
    "forgetting",
    "bwt",
    "reversion",
)


def headlines(numbers: Mapping[str, Any]) -> dict[str, Number]:
    """The numbers that stand on top of every report.

    Args:
        numbers: what `summary` gave, with "retention".

    Returns:
        One number per name in `HEADLINES`.
    """
    retention, near = numbers["retention"], numbers["locality"]
    return {
        **{name: numbers[name] for name in ("reliability", "generality", "leak", "portability")},
        **{name: near[name] for name in ("agreement", "kept_knowledge", "kl")},
        **{name: retention["reliability"][name] for name in ("forgetting", "bwt")},
        "reversion": retention["reversion"] and retention["reversion"]["replies"],
    }


def score_from_record(record: dict[str, Any]) -> Score:
    """Read back what `Score.to_record` wrote.

    Args:
        record: plain data.

    Returns:
        The score.
    """
    read: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
    }
    return Score(**read)
