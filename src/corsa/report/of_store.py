"""A store as one page: did it take, what did it cost, and everything behind that."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corsa.config import METHODS, PRESETS, Config, describe
from corsa.ledger import Ledger, Round
from corsa.metrics import Number, headlines
from corsa.progress import Progress, Silent
from corsa.report import figures
from corsa.report.facts import Told, count_right, share, tell_facts
from corsa.report.page import duration, named, percent, render, size
from corsa.report.timeline import happened
from corsa.words import ENOUGH_GENERALITY, ENOUGH_SHARE, LITTLE_LEAK

# Where these differ between rounds, their numbers are no series.
_OF_THE_MACHINE = ("versions", "device", "max_new_tokens")

_SECTIONS = (
    ("verdict", "Verdict"),
    ("rounds", "Rounds"),
    ("retention", "Retained"),
    ("facts", "Facts"),
    ("margins", "Margins"),
    ("changed", "What else changed"),
    ("made", "Training"),
    ("protocol", "Protocol"),
)


class Tile(NamedTuple):
    """One headline number.

    Attributes:
        label: what it is.
        value: the number as it is shown.
        meaning: what it says, in a sentence.
        tone: whether that is good news.
    """

    label: str
    value: str
    meaning: str
    tone: str = "plain"


class Verdict(NamedTuple):
    """An answer to one of the two questions everybody asks.

    Attributes:
        question: the question.
        answer: in a few words.
        text: in a sentence.
        tone: whether that is good news.
        tiles: the numbers behind it.
    """

    question: str
    answer: str
    text: str
    tone: str
    tiles: list[Tile]


class Made(NamedTuple):
    """How one round was made.

    Attributes:
        id: the round.
        method: its method.
        facts: how many it was given.
        steps: training steps; `None` where nothing is trained.
        ended: how training ended.
        tone: whether that is good news.
        seconds: by part.
        peak: most memory in use, bytes.
    """

    id: int
    method: str
    facts: int
    steps: int | None
    ended: str
    tone: str
    seconds: Mapping[str, float]
    peak: int | None


def page_of_store(folder: Path, progress: Progress | None = None) -> str:
    """The page of a store.

    Args:
        folder: the store's.
        progress: told what goes on.

    Returns:
        One HTML document.
    """
    progress = progress or Silent()
    ledger = Ledger(folder)
    progress.begin("reading the rounds")
    values = _values(ledger)
    progress.begin("drawing figures")
    drawn = _figures(values["line"], values["told"], values["made"])
    return render("store.html", **values, **drawn)


def _values(ledger: Ledger) -> dict[str, Any]:
    """What the page shows, figures left out."""
    head = ledger.head
    rounds = {id: ledger.round(id) for id in ledger.ids()}
    line = ledger.lineage(head)
    told = tell_facts(line)
    metrics = [made.metrics() for made in line]
    made = _made(ledger, line, metrics)
    name = ledger.path.resolve().name
    return {
        "title": name,
        "store": str(ledger.path),
        "model": ledger.model,
        "head": head,
        "rounds": rounds,
        "line": line,
        "told": told,
        "verdicts": [_took(told), _cost(metrics[-1], made[-1])] if line else [],
        "entries": happened(ledger, rounds, [r.id for r in line]),
        "retention": metrics[-1]["retention"] if line else None,
        "margins": metrics[-1]["margins"] if line else None,
        "near": metrics[-1]["locality"] if line else None,
        "drift": metrics[-1]["drift"] if line else None,
        "made": made,
        "protocol": named(metrics[-1]["protocol"]) if line else [],
        "measured": _measured(metrics[-1]["protocol"]) if line else "",
        "not_alike": _not_alike(metrics),
        "base_gives_old": metrics[-1]["base_gives_old"] if line else None,
        "heat": heat,
        "sections": _SECTIONS if line else _SECTIONS[:2],
        "identity": _identity(ledger, line),
        "settings": _settings(line[-1]) if line else [],
        "commands": _commands(ledger, line),
        "last": next(
            (e["at"] if "at" in e else e["created"] for e in ledger.journal()[::-1]), None
        ),
    }


def _took(told: Told) -> Verdict:
    """Did it take?"""
    asked, wrong = told.asked, told.of_state("not learned")
    lost, right = told.of_state("forgotten"), told.of_state("right")
    all_right = bool(asked) and len(right) == len(asked)
    exact, wordings = count_right(asked, "paraphrase")
    general = share(exact, wordings)
    in_general = general is None or general >= ENOUGH_GENERALITY
    answer = "In part" if 2 * len(right) >= len(asked) > 0 else "No"
    if all_right:
        answer = "Yes" if in_general else "Yes, as worded"
    tone = "good" if all_right and in_general else "plain" if all_right else "bad"
    text = f"{len(right)} of {_count(len(asked), 'fact')} that hold are answered exactly"
    text += f"; {_count(len(wrong), 'was', 'were')} not learned" if wrong else ""
    text += f"; {_count(len(lost), 'was', 'were')} learned and forgotten again" if lost else ""
    if asked and not lost and len({fact.planned.round for fact in asked}) > 1:
        text += "; none was forgotten"
    if general is not None:
        text += f"; asked in other words, {percent(general)} are"
    tiles = [
        Tile(
            "Facts right now",
            f"{len(right)} / {len(asked)}",
            "The whole reply to the fact's own prompt is the new answer.",
            "good" if all_right else "bad",
        )
    ]
    tiles.append(
        Tile(
            "In other words",
            percent(general),
            f"{exact} of {_count(wordings, 'other wording')}, never trained on, answered exactly."
            if wordings
            else "No other wordings were given, so nobody knows.",
            "plain" if general is None else "good" if in_general else "bad",
        )
    )
    earlier = [f for f in asked if f.planned.round != max(g.planned.round for g in asked)]
    if earlier:
        kept = sum(fact.state == "right" for fact in earlier)
        tiles.append(
            Tile(
                "Earlier rounds",
                f"{kept} / {len(earlier)}",
                "Facts of earlier rounds that are right after the newest one.",
                "good" if kept == len(earlier) else "bad",
            )
        )
    follows, probes = count_right(asked, "portability")
    if probes:
        meaning = f"{follows} of {_count(probes, 'question')} about what follows are right."
        tiles.append(Tile("What follows", percent(share(follows, probes)), meaning))
    return Verdict("Did it take?", answer, f"{text}.", tone, tiles)


def _cost(metrics: Mapping[str, Any], made: Made) -> Verdict:
    """What did it cost?"""
    groups = [("Neighbours", "neighbouring prompts", metrics["locality"])]
    if metrics["locality"]["probes"] != "locality":
        groups = []
    if metrics.get("subject"):  # earlier rounds were not asked it
        what = "other questions about the edited subjects"
        groups.append(("Their subjects", what, metrics["subject"]))
    if metrics["drift"]:
        groups.append(
            ("Everything else", "packaged questions about other things", metrics["drift"])
        )
    groups = [group for group in groups if group[2]["n"]]
    tiles = [tile for group in groups for tile in _cost_tiles(*group)]
    if made.seconds:
        spent = " + ".join(f"{part} {duration(s)}" for part, s in made.seconds.items())
        total = duration(sum(made.seconds.values()))
        memory = f"; at most {size(made.peak)} of memory" if made.peak else ""
        tiles.append(Tile("Time of the last round", total, f"{spent}{memory}."))
    if not groups:
        text = "Neither neighbours nor other things were asked after this round."
        return Verdict("What did it cost?", "Not measured", text, "bad", tiles)
    leak = max(columns["leak"] for _, _, columns in groups)
    kept = [c["kept_knowledge"] for _, _, c in groups if c["kept_knowledge"] is not None]
    little = leak <= LITTLE_LEAK and all(value >= ENOUGH_SHARE for value in kept)
    said = [
        f"new answers turn up in {percent(columns['leak'])} of {columns['n']} {what}"
        for _, what, columns in groups
    ]
    text = "; ".join(said)
    if kept:
        known = sum(c["base_right"] for _, _, c in groups)
        still = sum(c["base_right"] * (c["kept_knowledge"] or 0) for _, _, c in groups)
        text += f"; of {known} that the base model answered rightly {still:.0f} still are"
    answer = "Little" if little else "Other answers changed"
    return Verdict(
        "What did it cost?",
        answer,
        f"{text[0].upper()}{text[1:]}.",
        "good" if little else "bad",
        tiles,
    )


def _cost_tiles(name: str, what: str, columns: Mapping[str, Any]) -> list[Tile]:
    leak, kept, agrees = (columns[key] for key in ("leak", "kept_knowledge", "agreement"))
    floor = columns["agreement_floor"]
    tiles = [
        Tile(
            f"{name}: leak",
            percent(leak),
            f"A new answer where it does not belong, in {columns['n']} {what}.",
            "good" if leak <= LITTLE_LEAK else "bad",
        )
    ]
    if kept is not None:
        tiles.append(
            Tile(
                f"{name}: kept",
                percent(kept),
                f"Of {columns['base_right']} that the base model answers rightly, still right.",
                "good" if kept >= ENOUGH_SHARE else "bad",
            )
        )
    beside = "" if floor is None else f" Rounding alone: {percent(floor)}."
    tiles.append(
        Tile(f"{name}: unchanged", percent(agrees), f"Replies that begin as before.{beside}")
    )
    return tiles


def _made(
    ledger: Ledger, line: Sequence[Round], metrics: Sequence[Mapping[str, Any]]
) -> list[Made]:
    noted = {e["round"]: e for e in ledger.journal() if e["event"] == "round"}
    return [
        Made(
            made.id,
            str(made.record["method"]),
            len(made.edits()),
            numbers["training"].get("steps"),
            *_ended(numbers["training"]),
            {
                k: v
                for k, v in (noted.get(made.id, {}).get("seconds") or {}).items()
                if v is not None
            },
            noted.get(made.id, {}).get("peak_bytes"),
        )
        for made, numbers in zip(line, metrics, strict=True)
    ]


def _ended(training: Mapping[str, Any]) -> tuple[str, str]:
    if "steps" not in training:
        count = training.get("facts")
        told = "facts are told before a question"
        return (
            f"nothing trained; {count} {told}" if count is not None else f"nothing trained; {told}"
        ), "plain"
    if training["converged"]:
        return "every answer right", "good"
    return (
        "stopped at the cap" if training["capped"] else "ended without every answer right"
    ), "bad"


def _measured(protocol: Mapping[str, Any]) -> str:
    """The protocol in a line, to stand beside the numbers."""
    return (
        f"Right means {protocol['rule']}. Decoding {protocol['decoding']}, replies of at most "
        f"{protocol['max_new_tokens']} tokens, {protocol['dtype']} on {protocol['device']}, system "
        f"prompt: {protocol['system']}."
    )


def _not_alike(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the protocol was not the same in all rounds of the line."""
    protocols = [numbers["protocol"] for numbers in metrics]
    names = protocols[0] if protocols else ()
    return [
        name
        for name in names
        if name not in _OF_THE_MACHINE and any(p.get(name) != protocols[0][name] for p in protocols)
    ]


def _identity(ledger: Ledger, line: Sequence[Round]) -> list[tuple[str, str]]:
    """By what the model, the store and the round can be known again."""
    model = ledger.model
    return [
        ("base model", f"{model['name']}{', ' + model['revision'] if model['revision'] else ''}"),
        ("its SHA-256", str(model["sha256"])),
        ("store", str(ledger.path.resolve())),
        *((f"record of round {made.id}", str(made.record["sha256"])) for made in line[-1:]),
    ]


def _settings(made: Round) -> list[tuple[str, str, str, bool]]:
    """Every setting of a round: name, value, what it means, and whether it is not the default."""
    config, defaults = made.record["config"], Config().to_dict()
    meanings = {name: meaning for name, _, meaning in describe()}
    return [
        (name, text, meanings.get(name, ""), name not in defaults or config[name] != defaults[name])
        for name, text in named(config)
    ]


def _commands(ledger: Ledger, line: Sequence[Round]) -> list[str]:
    """What makes the line again, a command for each round."""
    model, commands = ledger.model, []
    for made in line:
        words = ["corsa", "update", str(made.folder / "edits.jsonl"), "--store", "again"]
        if made is line[0]:
            words += ["--model", str(model["name"])]
            words += ["--revision", str(model["revision"])] if model["revision"] else []
        words += ["--method", str(made.record["method"])]
        for setting in chosen_settings(made.record["config"]):
            words += ["--set", setting]
        commands.append(shlex.join(words))
    return commands


def chosen_settings(config: Mapping[str, Any]) -> list[str]:
    """The settings that method and preset do not bring by themselves, as --set takes them.

    Args:
        config: all settings of a round.

    Returns:
        Such as `rank=16`; settings that this version does not know are left out.
    """
    preset = str(config.get("preset", "default"))
    usual = (
        Config().to_dict() | dict(METHODS.get(config["method"], {})) | dict(PRESETS.get(preset, {}))
    )
    usual["method"], usual["preset"] = config["method"], "default"
    return [
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in config.items()
        if name in usual and value != usual[name]
    ]


def _figures(line: Sequence[Round], told: Told, made: Sequence[Made]) -> dict[str, Any]:
    scores = [fact.score for fact in told.asked if fact.score is not None]
    moved = [
        (s.base_margin, s.margin)
        for s in scores
        if s.base_margin is not None and s.margin is not None
    ]
    metrics = [round.metrics() for round in line]
    tops = [headlines(numbers) for numbers in metrics]
    series: dict[str, list[Number]] = {
        "facts right": [top["reliability"] for top in tops],
        "other wordings": [top["generality"] for top in tops],
        "leak": [top["leak"] for top in tops],
        "kept knowledge": [top["kept_knowledge"] for top in tops],
    }
    histories = {
        round.id: (numbers["training"]["examples"], numbers["training"]["history"])
        for round, numbers in zip(line, metrics, strict=True)
        if numbers["training"].get("history")
    }
    return {
        "moved": figures.margins_moved(moved),
        "over_rounds": figures.over_rounds([round.id for round in line], series),
        "convergence": figures.convergence(histories),
        "times": figures.times([m.id for m in made], [m.seconds for m in made]) if made else None,
    }


def _count(count: int, name: str, several: str | None = None) -> str:
    return f"{count} {name if count == 1 else several or f'{name}s'}"


def heat(value: Number) -> int | None:
    """The step of the heat map's scale that a share stands on.

    Args:
        value: the share.

    Returns:
        0 to 5; 5 is all of them.
    """
    return None if value is None else min(4, int(5 * value)) if value < 1 else 5
