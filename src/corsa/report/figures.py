"""Figures as SVG that belongs to the page: its colours are the page's variables, its text is text.

matplotlib draws them with the colours of `corsa.bench.figures`; each is replaced by a CSS variable, so
that one drawing serves light, dark and print. Every figure comes with its text alternative.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from corsa.bench.figures import draw_forgetting, draw_front, draw_margins, draw_so_far
from corsa.metrics import Number, mean
from corsa.optional import optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Run = Mapping[str, Any]

# What is drawn, and the variable of style.css that it becomes.
_INK, _GREY, _GRID = "#010203", "#777777", "#dddddd"
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_VARIABLES = {
    _INK: "--ink",
    _GREY: "--muted",
    _GRID: "--line",
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES)},
}
_RC = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "svg.hashsalt": "corsa",  # equal figures are equal bytes
    "text.parse_math": False,  # a dollar in a method's label is a dollar
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "axes.edgecolor": _GREY,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
# A figure as wide as a phone; wider screens show two beside each other.
_WIDTH, _HEIGHT = 4.7, 3.0
# Characters of a method's label that fit beside its curve.
_LABEL = 26
# Curves in one figure that can still be told apart.
_CURVES = len(_SERIES)


class Figure(NamedTuple):
    """A drawing for a page.

    Attributes:
        svg: an `<svg>` element; everything in it was escaped by matplotlib.
        title: what it shows.
        alternative: the same in words, for those who cannot see it.
        note: how to read it.
    """

    svg: str
    title: str
    alternative: str
    note: str = ""


def margins_moved(edits: Sequence[tuple[float, float]]) -> Figure | None:
    """Every fact as a line from its margin before any edit to its margin now.

    Args:
        edits: (before, now) in nats.

    Returns:
        The figure; `None` without edits.
    """
    if not edits:
        return None
    rows = sorted(edits, key=lambda pair: pair[1])

    def draw(ax: Axes) -> None:
        places = range(len(rows))
        before, now = [b for b, _ in rows], [n for _, n in rows]
        ax.hlines(places, before, now, color=_GRID, linewidth=1.6 if len(rows) <= 60 else 0.6)
        size = 22 if len(rows) <= 60 else 7
        ax.scatter(before, places, s=size, color=_SERIES[1], marker="s", label="before", zorder=3)
        ax.scatter(now, places, s=size, color=_SERIES[0], marker="o", label="now", zorder=3)
        ax.axvline(0, color=_GREY, linewidth=0.9, linestyle="--")
        ax.set_yticks([])
        ax.set_xlabel("log p(new answer) − log p(old answer), nats")
        ax.set_ylabel("one line a fact")

    wrong_before = sum(b < 0 for b, _ in rows)
    wrong_now = sum(n < 0 for _, n in rows)
    text = (
        f"Margins of {len(rows)} facts. Before any edit their mean was {_mean(b for b, _ in rows)} "
        f"nats and the old answer was likelier for {wrong_before}; now the mean is "
        f"{_mean(n for _, n in rows)} nats and the old answer is likelier for {wrong_now}."
    )
    note = "Right of the dashed line the model finds the new answer likelier than the old one."
    return Figure(_svg("margins", draw, legend=2), "Margins before and after", text, note)


def over_rounds(rounds: Sequence[int], curves: Mapping[str, Sequence[Number]]) -> Figure | None:
    """Headline shares, round after round.

    Args:
        rounds: their numbers.
        curves: by name, a share for each round, `None` where it was not measured.

    Returns:
        The figure; `None` before the second round.
    """
    if len(rounds) < 2:
        return None
    shown = {k: v for k, v in curves.items() if any(value is not None for value in v)}

    def draw(ax: Axes) -> None:
        for number, (label, values) in enumerate(shown.items()):
            points = [(p, 100 * v) for p, v in enumerate(values) if v is not None]
            _line(ax, points, label, number)
        ax.set_ylim(-3, 103)
        ax.set_xlim(-0.3, len(rounds) - 0.7)
        places = range(0, len(rounds), max(1, len(rounds) // 10))
        ax.set_xticks(places, [str(rounds[place]) for place in places])
        ax.set_xlabel("after round")
        ax.set_ylabel("%")

    told = [
        f"{label}: " + ", ".join(_percent(v) for v in values) for label, values in shown.items()
    ]
    text = f"After rounds {', '.join(map(str, rounds))}. {'; '.join(told)}."
    return Figure(_svg("rounds", draw, legend=len(shown)), "Round after round", text)


def convergence(
    histories: Mapping[int, tuple[int, Sequence[Mapping[str, Any]]]],
) -> list[Figure]:
    """How training went: how many facts were right, and the loss, step after step.

    Args:
        histories: by round, how many facts it trained on and what its steps said.

    Returns:
        Two figures, or none where nothing was trained.
    """
    rounds = list(histories)[-_CURVES:]
    if not rounds:
        return []
    names = [f"round {id}" for id in rounds]
    losses = ("sft", "dpo")
    name = next((n for n in losses if any(n in s for id in rounds for s in histories[id][1])), "")
    dropped = len(histories) - len(rounds)
    note = (
        f"The last {len(rounds)} rounds; {dropped} earlier ones are not drawn." if dropped else ""
    )

    def right(ax: Axes) -> None:
        for number, id in enumerate(rounds):
            count, steps = histories[id]
            points = [(p, 100 * s["right"] / max(1, count)) for p, s in enumerate(steps, 1)]
            _line(ax, points, names[number], number, marked=len(steps) <= 30)
        ax.set_ylim(-3, 103)
        ax.set_xlabel("training step")
        ax.locator_params(axis="x", integer=True)
        ax.set_ylabel("facts right, %")

    def loss(ax: Axes) -> None:
        for number, id in enumerate(rounds):
            steps = histories[id][1]
            points = [(p, s[name]) for p, s in enumerate(steps, 1) if s.get(name)]
            _line(ax, points, names[number], number, marked=len(steps) <= 30)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
        ax.set_xlabel("training step")
        ax.locator_params(axis="x", integer=True)
        ax.set_ylabel(f"{name.upper()} loss, nats")

    ends = "; ".join(
        f"round {id} took {len(histories[id][1])} steps and ended with "
        f"{histories[id][1][-1]['right']} of {histories[id][0]} right"
        for id in rounds
        if histories[id][1]
    )
    figures = [
        Figure(
            _svg("right", right, legend=len(rounds)),
            "Facts right, step by step",
            f"Share of a round's facts that are right by training step: {ends}.",
            note or "Right is the whole answer under teacher forcing, end of turn included.",
        )
    ]
    if name:
        falls = "; ".join(
            f"round {id} from {values[0]:.2f} to {values[-1]:.2f}"
            for id in rounds
            if (values := [s[name] for s in histories[id][1] if name in s])
        )
        figures.append(
            Figure(
                _svg("loss", loss, legend=len(rounds)),
                "Loss, step by step",
                f"{name.upper()} loss in nats by training step: {falls}.",
                "Logarithmic scale; falling and flat at the end is what one wants to see.",
            )
        )
    return figures


def times(rounds: Sequence[int], seconds: Sequence[Mapping[str, float]]) -> Figure | None:
    """Where the time of each round went.

    Args:
        rounds: their numbers.
        seconds: by part, for each of them.

    Returns:
        The figure; `None` where no time was noted.
    """
    parts = ("plan", "train", "measure")
    if not any(seconds):
        return None
    scale, unit = (60.0, "minutes") if max(sum(s.values()) for s in seconds) > 180 else (1.0, "s")

    def draw(ax: Axes) -> None:
        places, left = range(len(rounds)), [0.0] * len(rounds)
        for number, part in enumerate(parts):
            widths = [s.get(part, 0.0) / scale for s in seconds]
            ax.barh(places, widths, left=left, color=_SERIES[number], label=part, height=0.6)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        shown = range(0, len(rounds), max(1, len(rounds) // 12))
        ax.set_yticks(shown, [f"round {rounds[place]}" for place in shown])
        ax.set_ylim(max(2, len(rounds)) - 0.4, -0.6)  # the first round on top
        ax.set_xlabel(unit)

    told = "; ".join(
        f"round {id}: "
        + ", ".join(f"{part} {s[part]:.0f} s" for part in parts if s.get(part) is not None)
        for id, s in zip(rounds, seconds, strict=True)
        if s
    )
    height = min(4.0, 1.2 + 0.32 * max(2, len(rounds)))
    svg = _svg("times", draw, legend=len(parts), height=height)
    return Figure(svg, "Where the time went", f"Seconds of each round. {told}.")


def front(methods: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Generality against leak, a point for each method.

    Args:
        methods: of a benchmark's report.

    Returns:
        The figure.
    """
    told = [
        f"{label}: generality {_estimate(m['generality'])}, leak {_estimate(m['leak'])}"
        for label, m in methods.items()
        if "generality" in m and "leak" in m
    ]

    def draw(ax: Axes) -> None:
        draw_front(ax, methods)

    text = f"{'; '.join(told)}." if told else "No method has both numbers."
    note = (
        "Up: the fact is known in other words. Left: it stays out of other answers. "
        "Bars: intervals."
    )
    svg = _svg("front", draw, legend=len(told), height=3.5)
    return Figure(svg, "Generality against leak", text, note)


def curves(by_method: Mapping[str, Sequence[Run]]) -> list[Figure]:
    """What is forgotten, and what is right of all edits so far.

    Args:
        by_method: the finished runs.

    Returns:
        Two figures.
    """
    count = len(next(iter(by_method.values()))[0]["rounds"])

    def last(value: Callable[[Run], Number]) -> str:
        ends = {label: mean(value(run) for run in runs) for label, runs in by_method.items()}
        return "; ".join(f"{label} {_percent(end)}" for label, end in ends.items()) + "."

    forgot = last(lambda run: run["rounds"][-1]["forgetting"])
    right = last(lambda run: mean(run["matrix"]["reliability"][-1]))
    note = "Bands: intervals over seeds."
    return [
        Figure(
            _svg("forgetting", lambda ax: draw_forgetting(ax, by_method), legend=len(by_method)),
            "Forgetting, round after round",
            f"Forgetting after {count} rounds: {forgot}",
            note if count > 1 else "Nothing can be forgotten before the second round.",
        ),
        Figure(
            _svg("so-far", lambda ax: draw_so_far(ax, by_method), legend=len(by_method)),
            "Right of all edits so far",
            f"Right after {count} rounds: {right}",
            note,
        ),
    ]


def margins_of_methods(by_method: Mapping[str, Sequence[Run]]) -> Figure:
    """Margins before any edit and after each method.

    Args:
        by_method: the finished runs.

    Returns:
        The figure.
    """
    told = "; ".join(
        f"{label} {_mean(e['margin'] for run in runs for e in run['edits'])}"
        for label, runs in by_method.items()
    )
    some = next(iter(by_method.values()))
    before = _mean(e["base_margin"] for run in some for e in run["edits"])
    height = 0.45 * len(by_method) + 1.7
    svg = _svg("margins", lambda ax: draw_margins(ax, by_method), height=height)
    text = f"Mean margins in nats: before any edit {before}; {told}."
    return Figure(svg, "Margins before and after", text, "A point for every edit and seed.")


def short_names(labels: Sequence[str]) -> dict[str, str]:
    """Labels as they fit into a figure.

    Args:
        labels: all different.

    Returns:
        For each a short one; these are different, too.
    """
    return {
        label: label if len(label) <= _LABEL else f"{label[: _LABEL - 5]}… ({number})"
        for number, label in enumerate(labels, 1)
    }


def _line(
    ax: Axes, points: Sequence[tuple[int, float]], label: str, number: int, *, marked: bool = True
) -> None:
    ax.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=_SERIES[number % len(_SERIES)],
        marker=_MARKERS[number % len(_MARKERS)] if marked else None,
        markersize=4.5,
        linewidth=1.6,
        label=label,
    )


def _svg(
    name: str, draw: Callable[[Axes], None], *, legend: int = 0, height: float = _HEIGHT
) -> str:
    """Draw on one pair of axes and write it for the page."""
    matplotlib = optional("matplotlib", "report")
    figures = optional("matplotlib.figure", "report")
    text = io.StringIO()
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        # The reader's own font writes the text, whatever matplotlib's has no glyph for.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = figures.Figure(figsize=(_WIDTH, height), layout="constrained")
        ax = figure.subplots()
        draw(ax)
        ax.grid(visible=True, color=_GRID, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        if legend:
            handles, labels = ax.get_legend_handles_labels()
            # As many beside each other as a phone is wide.
            columns = max(1, min(4, legend, 52 // (6 + max(map(len, labels), default=0))))
            figure.set_figheight(height + 0.22 * -(-legend // columns))
            figure.legend(handles, labels, loc="outside upper center", ncols=columns)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _for_the_page(text.getvalue(), name)


def _for_the_page(svg: str, name: str) -> str:
    """An `<svg>` element with the page's colours, and ids that no other figure has."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(f": {colour}", f": var({variable})")
    head, rest = svg.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest


def _mean(values: Any) -> str:
    found = mean(values)
    return "unknown" if found is None else f"{found:.1f}"


def _percent(share: Number) -> str:
    return "not measured" if share is None else f"{100 * share:.0f} %"


def _estimate(found: Mapping[str, Any]) -> str:
    text = _percent(found["mean"])
    if found["low"] is None:
        return text
    return f"{text} (interval {100 * found['low']:.0f} to {100 * found['high']:.0f} %)"
