"""Four figures of a benchmark: retention, forgetting, margins, and generality against leak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corsa.bench.statistics import Estimate, estimate
from corsa.metrics import Number
from corsa.optional import optional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Run = Mapping[str, Any]

_DPI = 150
_LEAKS = {
    "leak": "leak, %: the new answer where it does not belong",
    "subject.leak": "other questions about edited subjects, %: the new answer",
}
# Okabe & Ito's colours, which colour-blind readers can tell apart; markers for those who print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#777777"
# Heat maps in a row.
_PANELS = 4


def draw_figures(folder: Path, document: Mapping[str, Any], runs: Sequence[Run]) -> list[Path]:
    """Draw all figures.

    Args:
        folder: where; it is made.
        document: from `corsa.bench.tables.report`.
        runs: the finished ones.

    Returns:
        The files; no front where no method has both of its numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run["method"], []).append(run)
    figures = {
        "retention": retention(by_method),
        "forgetting": forgetting(by_method),
        "margins": margins(by_method),
    }
    if on_front(document["methods"]):
        figures["front"] = front(document["methods"])
    title = _title(document, by_method)
    paths = []
    for name, figure in figures.items():
        figure.suptitle(title, fontsize=9, color=_GREY)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=_DPI)
    return paths


def retention(by_method: Mapping[str, Sequence[Run]]) -> Figure:
    """Heat maps of A[r][k], one a method: means over seeds, and below each its interval.

    Args:
        by_method: the finished runs.

    Returns:
        The figure.
    """
    count = len(next(iter(by_method.values()))[0]["rounds"])
    side = min(4.5, max(2.3, 0.5 * count + 0.8))
    rows = -(-len(by_method) // _PANELS)
    columns = -(-len(by_method) // rows)
    figure = _figure(columns * side + 0.8, rows * (side + 0.4) + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(by_method) :]:
        ax.set_visible(False)
    image: Any = None
    for ax, (label, runs) in zip(axes.flat, by_method.items(), strict=False):
        found = _estimates([run["matrix"]["reliability"] for run in runs])
        means = np.full((count, count), np.nan)
        for (row, column), each in found.items():
            if each.mean is None:
                continue
            means[row, column] = 100 * each.mean
            if count <= 12:
                told = _cell(each, with_interval=count <= 6)
                colour, size = "white" if each.mean < 0.6 else "black", 9 if count <= 6 else 7
                ax.text(column, row, told, ha="center", va="center", color=colour, size=size)
        image = ax.imshow(means, vmin=0, vmax=100, cmap="viridis", aspect="equal")
        ax.set_title(label, fontsize=10)
        ticks = range(0, count, max(1, count // 10))
        ax.set_xticks(ticks, [str(tick + 1) for tick in ticks])
        ax.set_yticks(ticks, [str(tick + 1) for tick in ticks])
        ax.set_xlabel("edits of round")
        ax.set_ylabel("after round")
    figure.colorbar(image, ax=axes, label="answered exactly, %", shrink=0.8)
    return figure


def forgetting(by_method: Mapping[str, Sequence[Run]]) -> Figure:
    """Round after round: how much is forgotten, and how many of all edits so far are right.

    Args:
        by_method: the finished runs.

    Returns:
        The figure.
    """
    figure = _figure(9, 3.8)
    left, right = figure.subplots(1, 2, sharex=True)
    draw_forgetting(left, by_method)
    draw_so_far(right, by_method)
    _legend(figure, right, len(by_method))
    return figure


def draw_forgetting(ax: Axes, by_method: Mapping[str, Sequence[Run]]) -> None:
    """How much is forgotten, round after round.

    Args:
        ax: where.
        by_method: the finished runs.
    """
    for number, (label, runs) in enumerate(by_method.items()):
        _curve(ax, [[row["forgetting"] for row in run["rounds"]] for run in runs], label, number)
    ax.set_ylabel("forgetting F, points")
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, -2), max(high, 10))  # nothing forgotten is a line at 0, not noise
    ax.axhline(0, color=_GREY, linewidth=0.8)
    _by_round(ax, by_method)


def draw_so_far(ax: Axes, by_method: Mapping[str, Sequence[Run]]) -> None:
    """How many of all edits so far are right, round after round.

    Args:
        ax: where.
        by_method: the finished runs.
    """
    for number, (label, runs) in enumerate(by_method.items()):
        matrices = [run["matrix"]["reliability"] for run in runs]
        _curve(ax, [[_mean(row) for row in matrix] for matrix in matrices], label, number)
    ax.set_ylabel("right of all edits so far, %")
    ax.set_ylim(-3, 103)
    _by_round(ax, by_method)


def _by_round(ax: Axes, by_method: Mapping[str, Sequence[Run]]) -> None:
    rounds = range(1, 1 + max(len(run["rounds"]) for runs in by_method.values() for run in runs))
    ax.set_xlabel("after round")
    ax.set_xticks(rounds[:: max(1, len(rounds) // 10)])
    _plain(ax)


def margins(by_method: Mapping[str, Sequence[Run]]) -> Figure:
    """Margins of all edits, before any edit and after the last round, every seed.

    Args:
        by_method: the finished runs.

    Returns:
        The figure.
    """
    figure = _figure(7.5, 0.55 * len(by_method) + 2.15)
    draw_margins(figure.subplots(), by_method)
    return figure


def draw_margins(ax: Axes, by_method: Mapping[str, Sequence[Run]]) -> None:
    """The margins of every edit and seed: a row before any edit, and a row for each method.

    Boxes are of edits; a diamond is the mean over seeds with its interval.

    Args:
        ax: where.
        by_method: the finished runs.
    """
    some = max(by_method.values(), key=len)
    by_seed = {"before any edit": [_values(run, "base_margin") for run in some]}
    by_seed |= {
        label: [_values(run, "margin") for run in runs] for label, runs in by_method.items()
    }
    groups = {
        label: [value for part in parts for value in part] for label, parts in by_seed.items()
    }
    places = range(len(groups), 0, -1)
    ax.boxplot(
        [values or [np.nan] for values in groups.values()],
        positions=list(places),
        orientation="horizontal",
        widths=0.55,
        whis=(5, 95),
        showfliers=False,
        medianprops={"color": "black"},
    )
    random = np.random.default_rng(0)
    colours = (_GREY, *(_COLOURS[n % len(_COLOURS)] for n in range(len(by_method))))
    for place, values, colour in zip(places, groups.values(), colours, strict=True):
        heights = place + random.uniform(-0.2, 0.2, len(values))
        ax.scatter(values, heights, s=9, alpha=0.45, color=colour, linewidths=0)
    for place, parts in zip(places, by_seed.values(), strict=True):
        mean, low, high, _ = estimate([_mean(part) for part in parts])
        if mean is not None and low is not None and high is not None:
            bars = [[mean - low], [high - mean]]
            ax.errorbar(mean, place - 0.38, xerr=bars, fmt="D", color="black", ms=3, capsize=3)
    ax.set_yticks(list(places), [f"{label} (n = {len(v)})" for label, v in groups.items()])
    ax.axvline(0, color=_GREY, linewidth=0.8, linestyle="--")
    ax.set_xlabel(
        "log p(y⁺|x) − log p(y⁻|x), nats\nboxes: quartiles; whiskers: 5 and 95 %"
        "\n◆: mean over seeds, and its interval"
    )
    _plain(ax)


def front(methods: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Generality against leak: better is up and left.

    Args:
        methods: of the report.

    Returns:
        The figure; leak at other questions about edited subjects stands beside that at neighbours where
        it tells methods apart.
    """
    subjects = len(on_front(methods, "subject.leak")) > 1
    figure = _figure(12 if subjects else 6.5, 4.6)
    (ax, *beside) = figure.subplots(1, 1 + subjects, squeeze=False)[0]
    if shown := draw_front(ax, methods):
        _legend(figure, ax, shown)
    for other in beside:
        draw_front(other, methods, "subject.leak")
    return figure


def draw_front(ax: Axes, methods: Mapping[str, Mapping[str, Any]], metric: str = "leak") -> int:
    """A point with its intervals for each method, and a line through the settings of one.

    Args:
        ax: where.
        methods: of the report; those called NAME@SETTING are one method, joined in the order of their
            settings.
        metric: which leak.

    Returns:
        How many methods have both numbers.
    """
    shown = on_front(methods, metric)
    names = list(dict.fromkeys(label.partition("@")[0] for label in on_front(methods)))
    curves: dict[str, list[tuple[tuple[float, str], tuple[float, float]]]] = {}
    for label, (leak, generality) in shown.items():
        name, _, setting = label.partition("@")
        curve = curves.setdefault(name, [])
        point = (100 * leak["mean"], 100 * generality["mean"])
        style = _style(names.index(name))
        ax.errorbar(
            *point,
            xerr=_bars(leak),
            yerr=_bars(generality),
            label=None if curve else name,
            capsize=3,
            elinewidth=1,
            markersize=7,
            **style,
        )
        ax.annotate(
            setting,
            point,
            xytext=(6, -9),
            textcoords="offset points",
            color=style["color"],
            size=8,
        )
        curve.append((_in_order(setting), point))
    for curve in curves.values():
        points = [point for _, point in sorted(curve)]
        ax.plot(*zip(*points, strict=True), color=_GREY, linewidth=1, zorder=1)
    top = max([10.0, *(100 * (leak["high"] or leak["mean"]) for leak, _ in shown.values())])
    ax.set_xlim(-0.03 * top, 1.08 * top)
    ax.set_ylim(-3, 103)
    ax.set_xlabel(_LEAKS[metric])
    ax.set_ylabel("generality, %: other wordings right")
    ax.set_title("↖ better", loc="right", color=_GREY, size=9)
    _plain(ax)
    return len(shown)


def on_front(
    methods: Mapping[str, Mapping[str, Any]], metric: str = "leak"
) -> dict[str, list[Any]]:
    """What the front shows.

    Args:
        methods: of the report.
        metric: which leak.

    Returns:
        Leak and generality of each method that has both.
    """
    names = (metric, "generality")
    return {
        k: [m[name] for name in names] for k, m in methods.items() if all(n in m for n in names)
    }


def _in_order(setting: str) -> tuple[float, str]:
    """Where a setting comes among others: numbers by what they are."""
    try:
        return float(setting), setting
    except ValueError:
        return math.inf, setting


def _figure(width: float, height: float) -> Figure:
    figures = optional("matplotlib.figure", "bench")
    figure: Figure = figures.Figure(figsize=(width, height), layout="constrained")
    return figure


def _title(document: Mapping[str, Any], by_method: Mapping[str, Sequence[Run]]) -> str:
    counts = sorted({len(runs) for runs in by_method.values()})
    seeds = " to ".join(dict.fromkeys([str(counts[0]), str(counts[-1])]))
    return (
        f"{document['dataset']['name']}, {document['model']['name']}: {document['rounds']} rounds of "
        f"{document['edits']} edits, {seeds} seed{'s' if counts[-1] > 1 else ''}"
    )


def _style(number: int) -> dict[str, Any]:
    again, place = divmod(number, len(_COLOURS))
    return {
        "color": _COLOURS[place],
        # Every colour comes again with another marker, so that as many methods as pairs differ.
        "marker": _MARKERS[(place + again) % len(_MARKERS)],
        "linestyle": "none",
    }


def _curve(ax: Axes, rows: Sequence[Sequence[Number]], label: str, number: int) -> None:
    """The mean over seeds by round, in per cent, with its interval as a band."""
    found = [estimate(values) for values in zip(*rows, strict=True)]
    points = [
        (place, f.mean, f.mean if f.low is None else f.low, f.mean if f.high is None else f.high)
        for place, f in enumerate(found, 1)
        if f.mean is not None
    ]
    if not points:
        return
    x, mean, low, high = np.array(points, float).T
    style = _style(number) | {"linestyle": "-"}
    ax.plot(x, 100 * mean, label=label, markersize=5, **style)
    ax.fill_between(x, 100 * low, 100 * high, color=style["color"], alpha=0.18, linewidth=0)


def _bars(found: Mapping[str, Any]) -> list[list[float]] | None:
    if found["low"] is None:
        return None
    below, above = found["mean"] - found["low"], found["high"] - found["mean"]
    return [[100 * max(0.0, below)], [100 * max(0.0, above)]]


def _estimates(
    matrices: Sequence[Sequence[Sequence[Number]]],
) -> dict[tuple[int, int], Estimate]:
    """Of every place of lower triangular matrices, over the seeds."""
    return {
        (row, column): estimate([matrix[row][column] for matrix in matrices])
        for row in range(len(matrices[0]))
        for column in range(row + 1)
    }


def _cell(found: Estimate, *, with_interval: bool) -> str:
    """A share in per cent, and its interval below it where that is more than a number."""
    mean, low, high = ("" if share is None else f"{100 * share:.0f}" for share in found[:3])
    return f"{mean}\n{low}–{high}" if with_interval and low != high else mean


def _mean(values: Sequence[Number]) -> Number:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _values(run: Run, name: str) -> list[float]:
    return [edit[name] for edit in run["edits"] if edit[name] is not None]


def _plain(ax: Axes) -> None:
    ax.grid(visible=True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, ax: Axes, count: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, count), frameon=False)
