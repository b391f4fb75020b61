"""Numbers in plain words: what was learned, what was forgotten, what else changed, how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Tone = Literal["good", "bad", "plain"]

# From here on a number is good news.
ENOUGH_GENERALITY = 0.8
ENOUGH_SHARE = 0.95
LITTLE_LEAK = 0.05


class Sentence(NamedTuple):
    """One thing to tell, and whether it is good news."""

    topic: str
    text: str
    tone: Tone = "plain"


def roughly(seconds: float) -> str:
    """A time nobody knows exactly.

    Args:
        seconds: how long.

    Returns:
        Such as "40 s", "8 min" or "2 h 5 min".
    """
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def tell(metrics: Mapping[str, Any]) -> list[Sentence]:
    """What a round did, for somebody who has to answer for it.

    Args:
        metrics: the content of a round's `metrics.json`.

    Returns:
        Sentences in the order of interest.
    """
    return [
        *_learned(metrics),
        *_generality(metrics),
        *_forgotten(metrics["retention"]),
        *(
            Sentence("forgotten", f"{e['prompt']} → {e['answer']} (not {e['target_new']})", "bad")
            for e in metrics.get("forgotten", ())
        ),
        *_changed(metrics),
        *_training(metrics.get("training", {})),
    ]


def _learned(metrics: Mapping[str, Any]) -> list[Sentence]:
    edits = [edit for edit in metrics["edits"] if edit["right"] is not None]  # not superseded
    wrong = [edit for edit in edits if not edit["right"]]
    told = [
        Sentence(
            "learned",
            f"{len(edits) - len(wrong)} of {_they(len(edits), 'edit')} answered exactly",
            "good" if not wrong else "bad",
        )
    ]
    told += [
        Sentence("not learned", f"{e['prompt']} → {e['answer']} (not {e['target_new']})", "bad")
        for e in wrong
    ]
    if said := [edit["id"] for edit in edits if edit["already_said"]]:
        told.append(Sentence("already said", f"answered so before: {', '.join(said)}"))
    if idle := [edit["id"] for edit in edits if not edit["trained"]]:
        told.append(Sentence("repeated", f"right already, nothing to train: {', '.join(idle)}"))
    return told


def _generality(metrics: Mapping[str, Any]) -> list[Sentence]:
    rules = metrics["generality_rules"]
    if not rules["n"]:
        return [Sentence("other wordings", "no paraphrases were given: generality is unknown")]
    text = f"{_percent(rules['exact'])} of {_they(rules['n'], 'paraphrase')} answered exactly"
    return [Sentence("other wordings", text, _tone(rules["exact"], ENOUGH_GENERALITY))]


def _forgotten(retention: Mapping[str, Any]) -> list[Sentence]:
    report = retention["reliability"]
    if report["forgetting"] is None:
        return []
    kept = [value for value in report["matrix"][-1][:-1] if value is not None]
    back = retention["reversion"]
    told = [
        Sentence(
            "earlier rounds",
            f"at least {_percent(min(kept))} of each earlier round is still right; forgetting is "
            f"{100 * report['forgetting']:.0f} points",
            _tone(1 - report["forgetting"], ENOUGH_SHARE),
        )
    ]
    if back and back["replies"]:
        text = f"{_percent(back['replies'])} of {_count(back['n'], 'earlier edit')} fell back to y⁻"
        told.append(Sentence("fell back", text, "bad"))
    return told


def _changed(metrics: Mapping[str, Any]) -> list[Sentence]:
    told = []
    near, drift = metrics["locality"], metrics["drift"]
    if near["probes"] == "locality":
        told += _probes("neighbours", "neighbouring prompt", near)
    if about := metrics.get("subject"):  # earlier rounds were not asked it
        told += _probes("their subjects", "other question", about)
    if drift:
        told += _probes("everything else", "packaged question", drift)
    return told


def _probes(topic: str, name: str, columns: Mapping[str, Any]) -> list[Sentence]:
    told = [
        Sentence(
            topic,
            f"the new answer turns up where it does not belong: in {_percent(columns['leak'])} of "
            f"{_count(columns['n'], name)}",
            "good" if columns["leak"] <= LITTLE_LEAK else "bad",
        )
    ]
    if columns["base_right"]:
        text = (
            f"of {columns['base_right']} the base model answers rightly, "
            f"{_percent(columns['kept_knowledge'])} still are right"
        )
        told.append(Sentence(topic, text, _tone(columns["kept_knowledge"], ENOUGH_SHARE)))
    floor = columns["agreement_floor"]
    beside = "" if floor is None else f" (rounding alone: {_percent(floor)})"
    text = f"{_percent(columns['agreement'])} of replies begin as before{beside}"
    told.append(Sentence(topic, text, _tone(columns["agreement"], (floor or 1.0) - 0.05)))
    return told


def _training(training: Mapping[str, Any]) -> list[Sentence]:
    if "steps" not in training:
        return []
    steps = _count(training["steps"], "step")
    adapted = ", ".join(f"{count} {kind}" for kind, count in training.get("modules", {}).items())
    told = [Sentence("adapted", f"{adapted}; {training['packing']}")] if adapted else []
    # A round that was solved for linearly, before there were neurons, has no layers to tell of.
    if (solved := training.get("solved")) and "layers" in solved:
        looked = _count(sum(one["steps"] for one in solved["layers"]), "step")
        subjects = _count(sum(one["subjects"] for one in solved["layers"]), "neuron")
        text = (
            f"{_count(solved['edits'], 'edit')} written as {subjects}; {looked} to find what subjects "
            "must carry"
        )
        if solved["unseen"] is not None:
            text += f"; {_percent(solved['unseen'])} of wordings never seen were right"
        told.append(Sentence("solved", text))
        steps += " more" if training["steps"] else ""
    if training["converged"]:
        return [*told, Sentence("training", f"{steps}, every answer right at the end")]
    how, more = ("stopped at the cap", "max_visits") if training["capped"] else ("ended", "epochs")
    text = f"{how} after {steps} without every answer right: raise {more}"
    return [*told, Sentence("training", text, "bad")]


def _count(number: int, name: str, plural: str = "s") -> str:
    return f"{number} {name}{'' if number == 1 else plural}"


def _they(number: int, name: str) -> str:
    return f"{_count(number, name)} {'is' if number == 1 else 'are'}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _tone(share: float, enough: float) -> Tone:
    return "good" if share >= enough else "bad"
