"""A benchmark as one page: methods side by side, what they learn and what they cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corsa.bench.runs import Runs
from corsa.bench.tables import ROWS, report, rows_of
from corsa.errors import StoreError
from corsa.files import unseal
from corsa.metrics import Number, mean
from corsa.progress import Progress, Silent
from corsa.report import figures
from corsa.report.of_store import chosen_settings, heat
from corsa.report.page import named, percent, render, visible

Run = Mapping[str, Any]

# The columns of the first table: what a method must do, then what it must not.
_KEY = (
    ("reliability", "Right", "All edits right after the last round", 1),
    ("generality", "Other wordings", "Paraphrases answered exactly", 1),
    ("forgetting", "Forgetting", "How far earlier rounds fell from their best", -1),
    ("leak", "Leak", "The new answer where it does not belong", -1),
    ("kept_knowledge", "Kept", "Of what the base model answers rightly, still right", 1),
)
_SECTIONS = (
    ("verdict", "Summary"),
    ("front", "Front"),
    ("retention", "Retention"),
    ("numbers", "All numbers"),
    ("tests", "Tests"),
    ("protocol", "Protocol"),
)
_NAMES = {row.metric: row.name for row in ROWS}


class Cell(NamedTuple):
    """A number over seeds.

    Attributes:
        text: its mean, as it is shown.
        interval: its interval, or nothing.
        value: for sorting.
        best: whether no other method's mean is better.
    """

    text: str
    interval: str
    value: Number
    best: bool = False


def page_of_bench(folder: Path, progress: Progress | None = None) -> str:
    """The page of a benchmark's folder.

    Args:
        folder: what `corsa bench --out` named.
        progress: told what goes on.

    Returns:
        One HTML document.

    Raises:
        StoreError: if there is no benchmark, or no run of it is finished.
    """
    progress = progress or Silent()
    if not (folder / "bench.json").is_file():
        raise StoreError(f"there is no benchmark at {folder}: make one with 'corsa bench'")
    progress.begin("reading the finished runs")
    record, runs = _read(folder)
    if not runs:
        raise StoreError(
            f"no run of {folder} is finished: go on with 'corsa bench … --out {folder} --resume'"
        )
    progress.begin("computing intervals and tests")
    document = report(record, runs)
    progress.begin("drawing figures")
    return render("bench.html", **_values(folder, record, document, runs))


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was asked for and every finished run, method by method, labels made safe to look at."""
    record, files = unseal(folder / "bench.json"), Runs(folder)
    found = [
        files.read(method["file_name"], seed)
        for method in record["methods"]
        for seed in record["seeds"]
    ]
    runs = [{**run, "method": visible(run["method"])} for run in found if run is not None]
    methods = [{**method, "label": visible(method["label"])} for method in record["methods"]]
    return {**record, "methods": methods}, runs


def _values(
    folder: Path, record: Mapping[str, Any], document: Mapping[str, Any], runs: Sequence[Run]
) -> dict[str, Any]:
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run["method"], []).append(run)
    methods = document["methods"]
    count = document["rounds"]
    names = figures.short_names(list(by_method))
    drawn = {names[label]: its for label, its in by_method.items()}
    return {
        "sections": _SECTIONS,
        "folder": str(folder),
        "document": document,
        "key": [entry for entry in _KEY if any(entry[0] in m for m in methods.values())],
        "summary": _summary(methods),
        "verdict": list(_verdict(document)),
        "front": figures.front({names[label]: m for label, m in methods.items()}),
        "curves": figures.curves(drawn),
        "margins": figures.margins_of_methods(drawn),
        "matrices": {
            label: _mean_matrix([run["matrix"]["reliability"] for run in its], count)
            for label, its in by_method.items()
        },
        "rounds": list(range(1, count + 1)),
        "heat": heat,
        "rows": list(_rows(document)),
        "tests": [{**test, "name": _NAMES[test["metric"]]} for test in document["compared"]],
        "protocol": named(document["protocol"]),
        "origin": named({k: v for k, v in document["dataset"].items() if k != "about"}),
        "model": named(document["model"]),
        "differing": _differing(document["configs"]),
        "command": _command(record),
    }


def _summary(methods: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Cell]]]:
    """A row for each method, over the key metrics that any of them has."""
    keys = [entry for entry in _KEY if any(entry[0] in m for m in methods.values())]
    best = {
        name: max((way * m[name]["mean"] for m in methods.values() if name in m), default=None)
        for name, _, _, way in keys
    }
    return [
        (
            label,
            [
                cell(m.get(name), share=True)._replace(
                    best=len(methods) > 1 and name in m and way * m[name]["mean"] == best[name]
                )
                for name, _, _, way in keys
            ],
        )
        for label, m in methods.items()
    ]


def cell(found: Mapping[str, Any] | None, *, share: bool) -> Cell:
    """A metric of a method, as a table shows it.

    Args:
        found: its estimate; `None` if it has none.
        share: whether it is a share, shown in per cent.

    Returns:
        The cell.
    """
    if found is None:
        return Cell("–", "", None)
    value, low, high = (found[name] for name in ("mean", "low", "high"))
    scale = 100 if share else 1
    whole = not share and (abs(value) >= 100 or value == int(value))
    digits = 0 if whole else 1 if share else 2
    text = f"{scale * value:.{digits}f}" + ("\u00a0%" if share else "")
    interval = "" if low is None else f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
    return Cell(text.replace("-", "−"), interval.replace("-", "−"), value)


def _verdict(document: Mapping[str, Any]) -> Iterator[str]:
    """What the first table says, in sentences that claim no more than it does."""
    methods = document["methods"]
    for name, what, way in (
        ("generality", "answers other wordings best", 1),
        ("leak", "leaks least into other answers", -1),
    ):
        ranked = sorted(
            ((m[name]["mean"], label) for label, m in methods.items() if name in m),
            key=lambda pair: -way * pair[0],
        )
        if len(ranked) < 2:
            continue
        if ranked[0][0] == ranked[1][0]:
            alike = [label for value, label in ranked if value == ranked[0][0]]
            yield f"{' and '.join(alike)} do equally well at {name}: {percent(ranked[0][0])}."
            continue
        (first, label), (second, other) = ranked[:2]
        # Who learns nothing leaks nothing.
        known = methods[label].get("generality") if name == "leak" else None
        beside = f"; it answers {percent(known['mean'])} of other wordings" if known else ""
        yield f"{label} {what}: {percent(first)}, before {other} with {percent(second)}{beside}."
    seeds = len(document["seeds"])
    if seeds < 3:
        said = "one seed" if seeds == 1 else f"{seeds} seeds"
        yield f"That is {said}: a direction, not a result."


def _mean_matrix(matrices: Sequence[Sequence[Sequence[Number]]], count: int) -> list[list[Number]]:
    return [
        [mean(matrix[row][column] for matrix in matrices) for column in range(row + 1)]
        for row in range(count)
    ]


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Cell]]]:
    """Metric, what it is called, and a cell for each method."""
    methods = document["methods"]
    shown = [(row.metric, row.name, row.share) for row in rows_of(document)]
    for place, (metric, name, share) in enumerate(shown):
        if name.startswith("… "):  # what it goes on from may be sorted elsewhere
            above = next(n for _, n, _ in shown[place - 1 :: -1] if not n.startswith("… "))
            shown[place] = (metric, f"{above}: {name[2:]}", share)
    for metric, name, share in shown:
        if any(metric in m for m in methods.values()):
            yield metric, name, [cell(m.get(metric), share=share) for m in methods.values()]


def _differing(configs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same for all methods."""
    names = dict.fromkeys(name for config in configs.values() for name in config)
    told = [(name, [str(config.get(name, "–")) for config in configs.values()]) for name in names]
    return [(name, values) for name, values in told if len(set(values)) > 1]


def _command(record: Mapping[str, Any]) -> str:
    """What makes the comparison again."""
    data = record["dataset"]
    chosen = [
        [s for s in chosen_settings(method["config"]) if not s.startswith("seed=")]
        for method in record["methods"]
    ]
    shared = [setting for setting in chosen[0] if all(setting in own for own in chosen)]
    methods = [
        f"{method['label']}:{method['config']['method']}{_own(own, shared)}"
        for method, own in zip(record["methods"], chosen, strict=True)
    ]
    words = ["corsa", "bench", data["name"], "--methods", ",".join(methods)]
    if "/" not in data["file"]:  # a local file; one on the hub has its repository in front
        words += ["--data", data["file"]]
    words += ["--rounds", str(record["rounds"]), "--edits", str(record["edits"])]
    words += ["--seeds", ",".join(map(str, record["seeds"]))]
    for name, value in (("from", data["from"] or None), ("to", data["to"])):
        words += [] if value is None else [f"--{name}", str(value)]
    if record["neighbours"] is not None:
        words += ["--neighbours", str(record["neighbours"])]
    words += ["--known-only"] if record["known_only"] else []
    if record["extras"]:
        given = (f"{name}={file}" if file else name for name, file in record["extras"].items())
        words += ["--extras", ",".join(given)]
    words += ["--model", record["model"]["name"]]
    for setting in shared:
        words += ["--set", setting]
    return shlex.join([*words, "--out", "again"])


def _own(chosen: Sequence[str], shared: Sequence[str]) -> str:
    own = ",".join(setting for setting in chosen if setting not in shared)
    return f"[{own}]" if own else ""
