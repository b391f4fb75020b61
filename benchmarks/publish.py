"""Finished runs as small files of this repository, and docs/results.md made of those files alone.

    corsa bench counterfact … --out compared
    python benchmarks/publish.py add compared     # benchmarks/results/counterfact/<label>-seed<k>.json
    python benchmarks/publish.py page             # docs/results.md and docs/results/*/*.png

Commit each file once it is there: the page needs nothing else, so work goes on wherever it ended. Runs
that were measured otherwise (rounds, edits, records, model) go into a folder of their own: --into NAME.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from corsa.bench.figures import draw_figures
from corsa.bench.published import (
    changed_since,
    command,
    differing,
    publish,
    published,
    record_of,
    runs_of,
)
from corsa.bench.tables import background, comparison, markdown_table, report, title
from corsa.errors import CorsaError
from corsa.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
AGAIN = "python benchmarks/publish.py page"


class Block(NamedTuple):
    """A table of a section; the first of its methods is what the others are tested against."""

    name: str
    heading: str
    labels: Sequence[str]


MAIN = ("lora", "sft+dpo", "sam", "paper", "trained", "corsa", "in-context", "retrieval")
# What is to be there of a folder, by its name; a folder that is not named here has what it has.
PLANNED = {
    "counterfact": (
        Block("methods", "Methods", MAIN),
        Block(
            "epochs",
            "The paper's settings and LoRA, ten epochs each",
            ("lora-epochs", "paper", "paper-one-sided"),
        ),
        Block(
            "epochs-rate",
            "The same at a rate that learns in ten epochs",
            ("lora-epochs@5e-4", "paper@5e-4"),
        ),
        Block(
            "converged",
            "The paper's settings and LoRA, both until they converge",
            ("lora-converged", "paper-converged"),
        ),
        Block(
            "remembering",
            "LoRA, LoRA that replays, and LoRA whose steps leave out the directions of earlier edits",
            ("lora", "lora-replay", "lora-null-space"),
        ),
        Block(
            "rates",
            "Baselines at twice their learning rate",
            ("lora", "lora@1e-3", "sam", "sam@1e-3", "sft+dpo", "sft+dpo@1e-3"),
        ),
    ),
    # Records that defaults are chosen on.
    "counterfact-dev": (
        Block(
            "front",
            "The weight of what is kept",
            tuple(
                f"{method}@{weight}"
                for method, weights in (
                    ("trained", (4, 1, 8)),
                    ("corsa", (0, 0.5, 2)),
                    ("lora", (0, 1, 4, 16)),
                    ("sam", (0, 1, 4, 16)),
                    ("sft+dpo", (0, 1, 4, 16)),
                )
                for weight in weights
            ),
        ),
        Block(
            "ablations",
            "Ablations",
            (
                "trained@4",
                "no-sam",
                "no-dpo",
                "no-projection",
                "no-positives",
                "no-keep",
                "no-replay",
            ),
        ),
        Block(
            "ablations-with-questions",
            "Ablations with questions among the fresh wordings",
            ("trained", "contrast-dpo", "one-sided", "no-sft"),
        ),
        Block(
            "remembering",
            "Earlier rounds: replayed, or their directions left out of steps",
            ("lora@0", "null-space@0.9", "null-space@0.99", "lora-replay"),
        ),
        Block("neurons", "Facts as neurons, and trained", ("trained", "corsa@0.5")),
    ),
    "counterfact-dev-small": (
        Block(
            "ablations",
            "More ablations, of half as many edits",
            (
                "trained",
                "no-contrast",
                "no-near-miss",
                "no-other-relations",
                "trained-others",
                "no-remember",
                "rank-8",
            ),
        ),
        Block(
            "neurons",
            "Facts as neurons: the default with parts of it switched off",
            (
                "corsa",
                "neurons-no-wordings",
                "neurons-no-contrast",
                "neurons-no-pool",
                "neurons-no-plain",
            ),
        ),
    ),
    "counterfact-flat": (
        Block("epochs", "The paper's settings and LoRA, ten epochs each", ("lora-epochs", "paper")),
        Block("learned", "LoRA and SAM, until all is right", ("lora", "sam")),
    ),
    "counterfact-rates": (
        Block(
            "baselines",
            "Learning rates of the baselines",
            tuple(
                f"{method}@{rate}"
                for methods, rates in (
                    (("lora", "sam", "sft+dpo"), ("2e-4", "5e-4", "1e-3")),
                    (("ft-l",), ("2e-3", "5e-3", "1e-2")),
                )
                for method in methods
                for rate in rates
            ),
        ),
        Block(
            "retrieved",
            "How many facts retrieval puts into the prompt",
            ("retrieval@4", "retrieval@1", "retrieval@2"),
        ),
        Block(
            "epochs",
            "Learning rates at the paper's ten epochs",
            tuple(
                f"{method}@{rate}"
                for rate in ("2e-4", "5e-4", "1e-3")
                for method in ("lora-epochs", "paper")
            ),
        ),
    ),
}
# What others are compared with, where it is there.
WHOLE = "corsa"


class Goal(NamedTuple):
    """What the default is to reach under every seed: is it reached, given a run's last numbers?"""

    name: str
    asked: str
    metric: str
    reached: Callable[[Mapping[str, float]], bool]


GOALS = {
    "counterfact": (
        Goal(
            "newest round right",
            "at least 99 %",
            "newest.reliability",
            lambda f: f["newest.reliability"] >= 0.99,
        ),
        Goal(
            "worst earlier round right",
            "at least 95 %",
            "earlier.lowest",
            lambda f: f["earlier.lowest"] >= 0.95,
        ),
        Goal("forgetting F", "at most 3 %", "forgetting", lambda f: f["forgetting"] <= 0.03),
        Goal("generality", "at least 80 %", "generality", lambda f: f["generality"] >= 0.80),
        Goal("leak", "at most 5 %", "leak", lambda f: f["leak"] <= 0.05),
        Goal(
            "agreement with the base",
            "no more than 3 points below its floor",
            "agreement",
            lambda f: f["agreement"] >= f["locality.agreement_floor"] - 0.03,
        ),
        Goal(
            "WikiText-2 perplexity, edited / base",
            "at most 103 %",
            "wikitext_ppl_ratio",
            lambda f: f["wikitext_ppl_ratio"] <= 1.03,
        ),
        Goal(
            "kept knowledge",
            "at least 95 %",
            "kept_knowledge",
            lambda f: f["kept_knowledge"] >= 0.95,
        ),
    )
}
# Of all neighbours that the data set has, what kept_floor.py counted: by folder the file, and its goal.
KEPT = {"counterfact": ("kept_floor.jsonl", 0.95)}

Files = Sequence[Mapping[str, Any]]


@click.group()
def commands() -> None:
    """Share finished runs, and write the page of results."""


@commands.command()
@click.argument("bench", type=click.Path(path_type=Path))
@click.option("--into", metavar="NAME", help="folder in benchmarks/results; default: the data set")
@click.option("--replace", is_flag=True, help="write over another run of the same name")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, hidden=True)
def add(bench: Path, into: str | None, results: Path, *, replace: bool) -> None:
    """Copy the finished runs of the bench folder BENCH, without prompts and replies."""
    try:
        new, known = publish(bench, results, into=into, replace=replace)
    except CorsaError as error:
        raise click.ClickException(str(error)) from error
    for path in new:
        click.echo(f"new: {path}")
    click.echo(f"{len(new)} new, {len(known)} there already; commit them, then: {AGAIN}")


@commands.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, hidden=True)
@click.option("--docs", type=click.Path(path_type=Path), default=DOCS, hidden=True)
def page(results: Path, docs: Path) -> None:
    """Write docs/results.md and its figures."""
    parts = [
        "# Results",
        "Made of the files in `benchmarks/results`, tables and figures, by:",
        f"```\n{AGAIN}\n```",
        "[metrics.md](metrics.md) defines the numbers, [bench.md](bench.md) says how to read the "
        "intervals and tests, [method.md](method.md) what the methods are.",
    ]
    folders = {path.parent for path in results.glob("*/*-seed*.json")}
    folders = sorted(folders, key=lambda folder: (folder.name not in PLANNED, folder.name))
    try:
        for folder in folders:
            parts += section(folder, published(folder), docs)
    except CorsaError as error:
        raise click.ClickException(str(error)) from error
    if not folders:
        raise click.ClickException(f"{results} holds no runs: add some first")
    text = "\n\n".join(parts) + "\n"
    write_atomically(docs / "results.md", text)
    for figure in (docs / "results").glob("*/*.png"):  # of another page, once
        if figure.relative_to(docs).as_posix() not in text:
            figure.unlink()
    click.echo(f"{docs / 'results.md'}: {', '.join(folder.name for folder in folders)}")


def section(folder: Path, files: Files, docs: Path) -> Iterator[str]:
    """All that one folder of small files says, and what its notes.md has to say of them."""
    name, notes = folder.name, folder / "notes.md"
    labels = list(dict.fromkeys(file["run"]["method"] for file in files))
    order = list(dict.fromkeys([*MAIN, *labels]))
    files = sorted(files, key=lambda file: order.index(file["run"]["method"]))
    blocks = list(planned(name, sorted(labels, key=order.index)))
    every = list(dict.fromkeys(label for block in blocks for label in block.labels))
    whole = report(record_of(files, every), runs_of(files))
    # A data set has several folders: the page names them as notes and log do.
    yield f"## {name}{title(whole).removeprefix(whole['dataset']['name'])}"
    if missing := [*lacking(whole)]:
        yield "**Missing**: " + "; ".join(missing) + "."
    if outdated := [*superseded(files)]:
        yield "**Not with today's settings**: " + "; ".join(outdated) + "."
    if unlike := [*apart(files)]:
        yield "**Runs of one column that differ in settings**: " + "; ".join(unlike) + "."
    yield from goals(name, files, folder.parent)
    if notes.exists():
        yield notes.read_text("utf-8").strip()
    for block in blocks:
        yield from table(block, files, docs / "results" / f"{name}-{block.name}")
    yield "### Time and hardware"
    yield markdown_table(["", "seeds", "training", "measuring", "on", "code"], [*costs(files)])
    yield "These runs, all of them, again:"
    yield f"```\n{commanded(files)}\n```"
    unusable = max(file["unusable_records"] for file in files)
    draws = {file["run"]["seed"]: file["run"]["draw"] for file in files}.values()
    yield from background({**whole, "unfinished": []}, "###")  # said above
    yield (
        f"- {unusable} records or probes of the data set cannot be used; "
        f"{sum(len(draw['left_out']) for draw in draws)} drawn edits were left out, and there are "
        f"{sum(draw['warnings'] for draw in draws)} warnings about probes of others"
    )


def planned(name: str, labels: Sequence[str]) -> Iterator[Block]:
    """The tables of a folder: what it is to have, and what it has beside that."""
    if name not in PLANNED:
        yield Block("methods", "Methods", labels)
        return
    yield from PLANNED[name]
    known = {label for block in PLANNED[name] for label in block.labels}
    if others := [label for label in labels if label not in known]:
        yield Block("others", "Others", ([WHOLE] if WHOLE in labels else []) + others)


def goals(name: str, files: Files, results: Path) -> Iterator[str]:
    """What the default is to reach, and what it does under each seed."""
    finals = {f["run"]["seed"]: f["run"]["final"] for f in files if f["run"]["method"] == WHOLE}
    rows = []
    for goal in GOALS.get(name, ()):
        found = [final for final in finals.values() if final.get(goal.metric) is not None]
        values = [f"{final[goal.metric]:.1%}".replace("%", " %") for final in found]
        if len(values) == len(finals):
            rows.append([goal.name, goal.asked, *values, times(map(goal.reached, found))])
    counted, least = KEPT.get(name, ("", 0.0))
    if counted and (results / counted).exists():
        lines = map(json.loads, (results / counted).read_text("utf-8").splitlines())
        by_seed = {line["of"]: line for line in lines}
        kept = [by_seed.get(f"{WHOLE}-seed{seed}") for seed in finals]
        if None not in kept:
            rows.append(
                [
                    "… kept of all neighbours that the data set has, not two an edit",
                    f"at least {least:.0%}".replace("%", " %"),
                    *(f"{k['edited']} of {k['known']}, in bfloat16 {k['bfloat16']}" for k in kept),
                    times(k["edited"] / k["known"] >= least for k in kept),
                ]
            )
    if finals and rows:
        yield f"### What {WHOLE} is to reach"
        heads = ["", "goal", *(f"seed {seed}" for seed in finals), "reached"]
        yield markdown_table(heads, rows)


def times(reached: Iterable[bool]) -> str:
    """Under how many seeds, as text."""
    each = list(reached)
    return {0: "no", len(each): "yes"}.get(sum(each), f"under {sum(each)} of {len(each)} seeds")


def table(block: Block, files: Files, figures: Path) -> Iterator[str]:
    """A table with its tests and figures."""
    chosen = {label: [f for f in files if f["run"]["method"] == label] for label in block.labels}
    there = [file for label in block.labels for file in chosen[label]]
    yield f"### {block.heading}"
    if sum(map(bool, chosen.values())) < min(2, len(block.labels)):
        yield "No run to compare yet."
        return
    runs = runs_of(there)
    seeds = sorted({file["run"]["seed"] for file in files})
    document = report({**record_of(there, block.labels), "seeds": seeds}, runs)
    yield from comparison(document, "####")
    for path in draw_figures(figures, document, runs):
        yield f"![{path.stem}]({path.relative_to(figures.parents[1]).as_posix()})"
    yield f"Figures: `{AGAIN}`; seeds, time and hardware below."


def lacking(document: Mapping[str, Any]) -> Iterator[str]:
    """The methods with their missing seeds."""
    seeds: dict[str, list[int]] = {}
    for run in document["unfinished"]:
        seeds.setdefault(run["method"], []).append(run["seed"])
    for method, missing in seeds.items():
        every = len(missing) == len(document["seeds"])
        yield method + (
            " under every seed" if every else f" under seed {', '.join(map(str, missing))}"
        )


def superseded(files: Files) -> Iterator[str]:
    """The runs whose command would be another run today, with what has changed."""
    groups: dict[tuple[str, str], list[str]] = {}
    for file in files:
        changes = ", ".join(
            f"`{name}` was {'not there' if was is None else was} and is {now}"
            for name, (was, now) in changed_since(file).items()
        )
        groups.setdefault((file["run"]["method"], changes), []).append(str(file["run"]["seed"]))
    for (method, changes), seeds in groups.items():
        if changes:
            yield f"{method} under seed {', '.join(seeds)}, where {changes}"


def apart(files: Files) -> Iterator[str]:
    """The methods whose runs had different settings."""
    for method, settings in differing(files).items():
        told = (f"`{name}` {' and '.join(map(str, values))}" for name, values in settings.items())
        yield f"{method}: {', '.join(told)}"


def costs(files: Files) -> Iterator[list[str]]:
    """What each method took, and where; several lines where seeds were run on different hardware."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for file in files:
        run = file["run"]
        key = (run["method"], hardware(run["origin"]), revision(run["origin"]))
        groups.setdefault(key, []).append(run)
    for (method, where, code), runs in groups.items():
        seeds = ", ".join(str(run["seed"]) for run in runs)
        times = [mean_minutes([run["final"][f"seconds.{part}"] for run in runs]) for part in PARTS]
        yield [method, seeds, *times, where, code]


def revision(origin: Mapping[str, Any]) -> str:
    """A commit, short, with what it says of changes, and of a run that it did not begin."""
    if origin["commit"] is None:
        return "unknown"
    known, plus, changes = origin["commit"].partition("+")
    before = origin.get("rounds_before", 0)
    earlier = f", after {before} round{'s' * (before > 1)} of another process" if before else ""
    return f"{known[:12]}{plus}{changes}{earlier}"


PARTS = ("train", "measure")


def mean_minutes(seconds: Sequence[float | None]) -> str:
    """Minutes a run, as text."""
    there = [value for value in seconds if value is not None]
    return f"{sum(there) / len(there) / 60:.1f} min" if there else "–"


def hardware(origin: Mapping[str, Any]) -> str:
    """One line on what a run was made."""
    cpu = f"{origin['threads']} threads on {origin['cores']} cores, {origin['cpu']}"
    where = f"{origin['gpu']}; {cpu}" if origin["gpu"] else cpu
    dtype = origin.get("train_dtype")
    return f"{where}; trained in {dtype}" if dtype else where


def commanded(files: Files) -> str:
    """One command for all runs, or several where methods have other seeds or were asked otherwise."""
    made: dict[tuple[str, str], tuple[Mapping[str, Any], list[int]]] = {}
    for file in files:
        key = command(file["asked"], [""], []), file["typed"]
        made.setdefault(key, (file["asked"], []))[1].append(file["run"]["seed"])
    groups: dict[str, tuple[Mapping[str, Any], list[str], list[int]]] = {}
    for (_, typed), (asked, seeds) in made.items():
        alike = groups.setdefault(command(asked, [""], sorted(seeds)), (asked, [], sorted(seeds)))
        alike[1].append(typed)
    return "\n".join(
        command(asked, typed, seeds, f"compared-{number}" if len(groups) > 1 else "compared")
        for number, (asked, typed, seeds) in enumerate(groups.values(), 1)
    )


if __name__ == "__main__":
    commands()
