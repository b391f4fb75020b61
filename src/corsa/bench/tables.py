"""Finished runs summed up: the report, one Markdown table, and tidy CSV.

Everything here is made of the files of finished runs, so it can be made again at any time.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corsa.bench.statistics import LEVEL, Estimate, compare, estimate, over_edits
from corsa.files import write_atomically

Run = Mapping[str, Any]

# What methods are compared on, edit by edit.
_TESTED = (
    "reliability",
    "bwt",
    "generality",
    "leak",
    "agreement",
    "kept_knowledge",
    "portability",
)
_INTERVALS = {
    True: f"percentile bootstrap over seeds, {LEVEL:.0%}; of two or three seeds their range",
    False: f"percentile bootstrap over edits, {LEVEL:.0%}, where a number is a mean over edits",
}
# What is also told round by round; all else after the last one, or by edits in figures.
_EACH_ROUND = ("sharpness_sft", "sharpness")

# Left-out records that the table names; all are in bench.json.
_NAMED = 12


class Row(NamedTuple):
    """One line of the table: a metric, what it is called, and whether it is a share."""

    metric: str
    name: str
    share: bool = True


ROWS = (
    Row("reliability", "all edits right"),
    Row("reliability_rules.contains", "… answer somewhere in the reply"),
    Row("reliability_rules.squad", "… by SQuAD's normalisation"),
    Row("newest.reliability", "newest round right"),
    Row("earlier.lowest", "worst earlier round right"),
    Row("forgetting", "forgetting F"),
    Row("bwt", "backward transfer"),
    Row("reversion", "reversion to the old answer"),
    Row("generality", "generality"),
    Row("generality_rules.contains", "… answer somewhere in the reply"),
    Row("generality_rules.squad", "… by SQuAD's normalisation"),
    Row("unseen.generality", "… wordings not in the library"),
    Row("unseen.generality_contains", "… … answer somewhere in the reply"),
    Row("library.paraphrases", "… paraphrases worded as in the library", share=False),
    Row("retention.generality.forgetting", "forgetting of paraphrases"),
    Row("leak", "leak"),
    Row("leak_any", "… or the reply is another edit's new answer"),
    Row("unseen.leak", "… neighbours that name no packaged subject"),
    Row("library.neighbours", "… neighbours that name one", share=False),
    Row("agreement", "agreement with the base"),
    Row("locality.agreement_floor", "… its floor"),
    Row("kept_knowledge", "kept knowledge"),
    Row("locality.base_right", "… of how many answers that the base gives", share=False),
    Row("kl", "KL(base ‖ edited), nats", share=False),
    Row("subject.leak", "something else of the subject: leak"),
    Row("subject.agreement", "… agreement with the base"),
    Row("subject.agreement_floor", "… its floor"),
    Row("subject.kl", "… KL, nats", share=False),
    Row("drift.leak", "elsewhere: leak"),
    Row("drift.agreement", "elsewhere: agreement"),
    Row("drift.agreement_floor", "… its floor"),
    Row("drift.kept_knowledge", "elsewhere: kept knowledge"),
    Row("drift.base_right", "… of how many answers that the base gives", share=False),
    Row("drift.kl", "elsewhere: KL, nats", share=False),
    Row("portability", "portability"),
    Row("portability.Reasoning", "… reasoning"),
    Row("portability.Logical_Generalization", "… logical generalisation"),
    Row("portability.Subject_Aliasing", "… another name of the subject"),
    Row("multi_hop", "multi-hop, any question"),
    Row("margins.mean", "margin, nats", share=False),
    Row("margins.mean_per_token", "… per token", share=False),
    Row("margins.below_zero", "margins below zero"),
    Row("margins.base_below_zero", "… before any edit"),
    Row("retention.reversion.below_zero", "… of earlier rounds"),
    Row("base_gives_old", "known: base gives the old answer"),
    Row("known.reliability", "… right"),
    Row("known.generality", "… generality"),
    Row("known.leak", "… leak"),
    Row("retention.known.forgetting", "… forgetting F"),
    Row("retention.known.reversion", "… reversion to the old answer"),
    Row("converged", "rounds that converged"),
    Row("steps", "training steps", share=False),
    Row("seconds.train", "seconds of training", share=False),
    Row("seconds.measure", "seconds of measuring", share=False),
    Row("es", "ES: new answer likelier than the old"),
    Row("ps", "PS: … in other wordings"),
    Row("ns", "NS: neighbours' own answer likelier"),
    Row("s", "S: harmonic mean of ES, PS, NS"),
    Row("em", "EM: by how much likelier", share=False),
    Row("pm", "PM: … in other wordings", share=False),
    Row("nm", "NM: … for neighbours", share=False),
    Row("token_accuracy", "token accuracy, teacher-forced"),
    Row("token_accuracy_paraphrases", "… other wordings"),
    Row("token_accuracy_locality", "… neighbours, the data set's answer"),
    Row("fluency", "fluency, bits", share=False),
    Row("fluency_base", "… of the base", share=False),
    Row("fluency_words", "… words a text", share=False),
    Row("fluency_words_base", "… … of the base", share=False),
    Row("wikitext_ppl", "WikiText-2 perplexity", share=False),
    Row("wikitext_ppl_base", "… of the base", share=False),
    Row("wikitext_ppl_ratio", "… edited / base"),
    Row("wikitext_kl", "… KL(base ‖ edited), nats", share=False),
    Row("mmlu", "MMLU right"),
    Row("mmlu_base", "… by the base"),
    Row("mmlu_flips", "… answers that flip"),
    Row("mmlu_base_commonest", "… the base's commonest letter"),
    Row("sharpness_sft", "sharpness of L_SFT at ρ, nats", share=False),
    Row("sharpness", "… of what was trained", share=False),
    Row("hessian_top", "top Hessian eigenvalue of L_SFT", share=False),
)


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """The lines of a table.

    Args:
        document: from `report`.

    Returns:
        All that have a name here, then what else was measured (a harness's tasks) by its own.
    """
    named = {row.metric for row in ROWS}
    others = [name for name in document["extra_metrics"] if name not in named]
    return [*ROWS, *(Row(name, name, share=False) for name in others)]


def report(record: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """All runs as one document.

    Args:
        record: what was asked for: the content of `bench.json`.
        runs: the finished ones.

    Returns:
        `dataset`, `protocol`, `methods` (by name and metric: mean, low, high, per_seed in the order
        of `seeds`), `each_round` (by metric and name: the mean over seeds after each round),
        `compared` with the first method, and what was asked for.
    """
    seeds = [seed for seed in record["seeds"] if seed in {run["seed"] for run in runs}]
    by_method: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_method.setdefault(run["method"], {})[run["seed"]] = run
    methods = {}
    for label, by_seed in by_method.items():
        metrics = dict.fromkeys(name for run in by_seed.values() for name in run["final"])
        estimates = {name: _estimate(name, by_seed, seeds) for name in metrics}
        methods[label] = {
            name: found._asdict() | {"per_seed": list(found.per_seed)}
            for name, found in estimates.items()
            if found.mean is not None
        }
    return {
        "dataset": record["dataset"],
        "protocol": _protocol([run["protocol"] for run in runs]) | record["extra_protocols"],
        "interval": _INTERVALS[len(seeds) > 1],
        **{name: record[name] for name in ("model", "rounds", "edits")},
        "seeds": seeds,
        "unfinished": [
            {"method": m["label"], "seed": seed}
            for m in record["methods"]
            for seed in record["seeds"]
            if seed not in by_method.get(m["label"], {})
        ],
        **{name: record[name] for name in ("known_only", "neighbours", "extras")},
        "extra_files": record.get("extra_files", {}),  # earlier versions did not note them
        "left_out": _left_out(record, runs),
        "extra_metrics": sorted({name for run in runs for name in run["extra"]}),
        "draws": {str(run["seed"]): run["draw"] for run in runs},
        "configs": {m["label"]: m["config"] for m in record["methods"] if m["label"] in methods},
        "methods": methods,
        "each_round": {
            metric: {
                label: means
                for label, by_seed in by_method.items()
                for means in [_each_round(metric, list(by_seed.values()))]
                if means.count(None) < len(means)
            }
            for metric in _EACH_ROUND
        },
        "compared": list(_compared(by_method, record["methods"][0]["label"])),
    }


def _estimate(name: str, by_seed: Mapping[int, Run], seeds: Sequence[int]) -> Estimate:
    finals = [by_seed[s]["final"].get(name) if s in by_seed else None for s in seeds]
    if len(seeds) > 1 or name not in _TESTED:
        return estimate(finals)
    return over_edits(finals[0], [edit.get(name) for edit in by_seed[seeds[0]]["edits"]])


def _each_round(metric: str, runs: Sequence[Run]) -> list[float | None]:
    """The mean over seeds after each round; `None` where no run has it."""
    rounds = zip(*(run["rounds"] for run in runs), strict=True)
    return [estimate([row.get(metric) for row in rows]).mean for rows in rounds]


def _left_out(record: Mapping[str, Any], runs: Sequence[Run]) -> list[dict[str, str]]:
    """Records that cannot be used at all, then edits that some seed would have drawn."""
    drawn = [entry for run in runs for entry in run["draw"].get("left_out", ())]
    return [*record["left_out"], *(e for i, e in enumerate(drawn) if e not in drawn[:i])]


def _protocol(protocols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the numbers were taken; where runs differ (the cut of replies) all that occurs."""
    found: dict[str, Any] = {}
    for name in protocols[0]:
        values = [protocol[name] for protocol in protocols]
        alike = all(value == values[0] for value in values)
        found[name] = (
            values[0] if alike else [v for i, v in enumerate(values) if v not in values[:i]]
        )
    return found


def _compared(by_method: Mapping[str, Mapping[int, Run]], first: str) -> Iterator[dict[str, Any]]:
    """Every other method against the first, over the edits that both were given."""
    if first not in by_method:  # said among what is not finished
        return
    for label, metric in itertools.product(by_method, _TESTED):
        if label != first:
            one, other = (_by_edit(by_method[name], metric) for name in (label, first))
            if found := compare(one, other):
                seeds = {seed for seed, _ in one.keys() & other.keys()}
                about = {"method": label, "against": first, "metric": metric}
                yield {**about, "seeds": sorted(seeds), **found._asdict()}


def _by_edit(by_seed: Mapping[int, Run], metric: str) -> dict[tuple[int, str], float]:
    return {
        (seed, edit["id"]): value
        for seed, run in by_seed.items()
        for edit in run["edits"]
        # Runs of before have neither bwt, nor agreement, nor what is kept, edit by edit.
        if (value := edit.get(metric)) is not None
    }


# --- Markdown -------------------------------------------------------------------------------------


def table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The metrics that anybody has, methods side by side.

    Args:
        document: from `report`.

    Returns:
        The heads and the rows, as text; shares are in per cent.
    """
    methods = document["methods"]
    finished = {label: _seeds_of(document, label) for label in methods}
    heads = [_head(document, label, seeds) for label, seeds in finished.items()]
    rows = [
        [
            row.name,
            *(
                _cell(metrics.get(row.metric), row.share, len(finished[label]))
                for label, metrics in methods.items()
            ),
        ]
        for row in rows_of(document)
        if any(row.metric in metrics for metrics in methods.values())
    ]
    return ["", *heads], rows


def _seeds_of(document: Mapping[str, Any], label: str) -> list[int]:
    missing = {run["seed"] for run in document["unfinished"] if run["method"] == label}
    return [seed for seed in document["seeds"] if seed not in missing]


def _head(document: Mapping[str, Any], label: str, seeds: Sequence[int]) -> str:
    """A method's name, with its seeds where others have more."""
    if seeds == document["seeds"]:
        return label
    return f"{label} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} only)"


def _cell(found: Mapping[str, Any] | None, share: bool, seeds: int) -> str:
    """A number; one that was not taken under all of the method's seeds says under how many."""
    if found is None:
        return "–"
    mean, low, high = (found[name] for name in ("mean", "low", "high"))
    scale, digits = (100, 1) if share else (1, _decimals(mean))
    text = f"{scale * mean:.{digits}f}{' %' if share else ''}"
    if low is not None:
        text += f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    of = sum(value is not None for value in found["per_seed"])
    return text if of == seeds else f"{text} ({of} of {seeds} seeds)"


def _decimals(value: float) -> int:
    """What tells small numbers apart, and none for hundreds."""
    if not 0 < abs(value) < 1:
        return 0 if abs(value) >= 100 else 2
    return min(6, 1 - math.floor(math.log10(abs(value))))


def markdown(document: Mapping[str, Any]) -> str:
    """One page: the table, the tests, and all that is needed to read them.

    Args:
        document: from `report`.

    Returns:
        The text.
    """
    return (
        "\n\n".join([f"# {title(document)}", *comparison(document), *background(document)]) + "\n"
    )


def title(document: Mapping[str, Any]) -> str:
    """What was done, in a line.

    Args:
        document: from `report`.

    Returns:
        Data set, rounds, edits and model.
    """
    return (
        f"{document['dataset']['name']}: {document['rounds']} rounds of {document['edits']} edits on "
        f"{document['model']['name']}"
    )


def comparison(document: Mapping[str, Any], heading: str = "##") -> Iterator[str]:
    """The table and the tests.

    Args:
        document: from `report`.
        heading: what stands in front of headings.

    Yields:
        Paragraphs.
    """
    seeds = ", ".join(map(str, document["seeds"]))
    yield (
        f"Means over the seeds {seeds}, in brackets the {document['interval']}. After the last round, "
        "over all edits that hold; definitions in docs/metrics.md."
    )
    yield markdown_table(*table(document))
    yield from _rounds(document, heading)
    yield from _tests(document["compared"], heading)


def background(document: Mapping[str, Any], heading: str = "##") -> Iterator[str]:
    """How it was measured, and on what.

    Args:
        document: from `report`.
        heading: what stands in front of headings.

    Yields:
        Paragraphs.
    """
    yield f"{heading} How it was measured"
    yield markdown_table(["", ""], [[k, _text(v)] for k, v in document["protocol"].items()])
    yield f"{heading} What was measured on"
    yield "\n".join(f"- {line}" for line in _origin(document))


def _rounds(document: Mapping[str, Any], heading: str) -> list[str]:
    """What is told round by round, methods one below the other."""
    names = {row.metric: row.name for row in ROWS}
    rows = [
        [label, names[metric], *("–" if mean is None else f"{mean:.4f}" for mean in means)]
        for metric, by_label in document["each_round"].items()
        for label, means in by_label.items()
    ]
    if not rows:
        return []
    heads = ["", "", *(f"after round {number}" for number in range(1, document["rounds"] + 1))]
    return [f"{heading} Round by round", "Means over seeds.", markdown_table(heads, rows)]


def _tests(compared: Sequence[Mapping[str, Any]], heading: str) -> list[str]:
    if not compared:
        return []
    heads = ["", "against", "metric", "difference, points", "p", "edits", "of seeds"]
    rows = [
        [
            *(c["method"], c["against"], c["metric"], _points(c), f"{c['p']:.4f}", str(c["n"])),
            ", ".join(map(str, c["seeds"])),
        ]
        for c in compared
    ]
    return [
        f"{heading} Over the same edits",
        "Paired permutation test, two-sided, not corrected for the number of tests; in brackets the "
        "bootstrap interval over edits. It takes the training runs as they are.",
        markdown_table(heads, rows),
    ]


def _points(c: Mapping[str, Any]) -> str:
    text = f"{100 * c['mean']:+.1f}"
    return text if c["low"] is None else f"{text} [{100 * c['low']:+.1f}, {100 * c['high']:+.1f}]"


def _origin(document: Mapping[str, Any]) -> Iterator[str]:
    data = document["dataset"]
    to = "the end" if data["to"] is None else f"before {data['to']}"
    yield f"{data['about']}: {data['file']}, SHA-256 {data['sha256']}"
    yield f"records from {data['from']} to {to}: {data['records']}, of which {data['usable']} usable"
    if "tasks" in data:
        yield f"tasks: {data['tasks']}, of which {data['tasks_usable']} work here in usable updates"
    for extra, read in document["extra_files"].items():
        yield f"{extra}: {read['file']}, SHA-256 {read['sha256']}"
    if document["unfinished"]:
        runs = ", ".join(
            f"{run['method']} under seed {run['seed']}" for run in document["unfinished"]
        )
        yield f"**not finished**: {runs}"
    if document["known_only"]:
        asked = ", ".join(
            f"{draw['kept']} of {draw['drawn']} drawn under seed {seed}"
            for seed, draw in document["draws"].items()
        )
        yield f"only edits whose old answer the base model gives: {asked}"
    if document["neighbours"] is not None:
        yield f"{document['neighbours']} locality probes of each edit"
    warnings = sum(len(draw["warnings"]) for draw in document["draws"].values())
    if warnings:
        yield f"{warnings} warnings about the drawn edits, in draws/"
    left_out = document["left_out"]
    for entry in left_out[:_NAMED]:
        yield f"left out: {entry['record']}: {entry['why']}"
    if len(left_out) > _NAMED:
        yield f"left out: {len(left_out) - _NAMED} more, all by name in report.json"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as Markdown.

    Args:
        heads: of the columns.
        rows: their cells.

    Returns:
        The text.
    """
    lines = [heads, ["---"] * len(heads), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- CSV ------------------------------------------------------------------------------------------


def metrics_csv(runs: Sequence[Run]) -> str:
    """Every number of every run: one a line.

    Args:
        runs: the finished ones.

    Returns:
        CSV: method, seed, after_round, over ("round": that round's edits, "all": all that hold),
        metric, value.
    """
    lines: list[Sequence[Any]] = [("method", "seed", "after_round", "over", "metric", "value")]
    for run in runs:
        last = len(run["rounds"])
        groups = [(row["round"], "round", row) for row in run["rounds"]]
        for after, over, numbers in (*groups, (last, "all", run["final"])):
            lines += [
                (run["method"], run["seed"], after, over, name, _plain(value))
                for name, value in numbers.items()
                if name != "round" and not isinstance(value, Mapping) and value is not None
            ]
    return _csv(lines)


def retention_csv(runs: Sequence[Run]) -> str:
    """The matrices A[r][k].

    Args:
        runs: the finished ones.

    Returns:
        CSV: method, seed, metric, after_round, edits_of_round, value.
    """
    lines: list[Sequence[Any]] = [
        ("method", "seed", "metric", "after_round", "edits_of_round", "value")
    ]
    lines += [
        (run["method"], run["seed"], metric, after, of, "" if value is None else value)
        for run in runs
        for metric, matrix in run["matrix"].items()
        for after, row in enumerate(matrix, 1)
        for of, value in enumerate(row, 1)
    ]
    return _csv(lines)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _csv(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write_tables(
    folder: Path,
    document: Mapping[str, Any],
    runs: Sequence[Run],
    generations: Iterable[Mapping[str, Any]],
) -> None:
    """Write `report.json`, `table.md`, `metrics.csv`, `retention.csv` and `generations.jsonl`.

    Args:
        folder: where.
        document: from `report`.
        runs: the finished ones.
        generations: every reply of theirs.
    """
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    write_atomically(folder / "report.json", text)
    write_atomically(folder / "table.md", markdown(document))
    write_atomically(folder / "metrics.csv", metrics_csv(runs))
    write_atomically(folder / "retention.csv", retention_csv(runs))
    lines = (json.dumps(reply, ensure_ascii=False) + "\n" for reply in generations)
    write_atomically(folder / "generations.jsonl", "".join(lines))
