"""How much of what a model knows an edited model still says, and the same model in bfloat16: the floor.

    corsa bench counterfact --data counterfact.json … --methods corsa --keep-stores --out compared
    python benchmarks/kept_floor.py compared/generations.jsonl …
    python benchmarks/kept_floor.py compared/stores/* --data counterfact.json --json kept.jsonl

Of the neighbours whose answer the base model says, after the last round: how often the edited model
still says it, and how often the base model does in bfloat16. A run measures a few neighbours of each
edit, two in the published ones, and thirty or forty answers are known among them: one or two are a
point or two. A store is asked all that the data set has, but those that name a packaged subject, for
training may have kept it as it was, and those that are an edit's own prompt.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import scipy.stats
from rich.console import Console

from corsa.answerers import ModelAnswerer
from corsa.bench.datasets import load
from corsa.config import make_config
from corsa.errors import CorsaError, UsageError
from corsa.ledger import Ledger
from corsa.matching import contains
from corsa.models import BaseModel, load_model
from corsa.progress import Progress
from corsa.render import TerminalProgress
from corsa.variations import packaged_subjects_in


def says(reply: str, row: dict[str, Any]) -> bool:
    """Whether an answer of a probe is in a reply."""
    return any(contains(reply, answer) for answer in row["answers"])


def measured(file: Path) -> list[dict[str, Any]]:
    """What a run measured after its last round."""
    rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    last = max(row["after_round"] for row in rows)
    return [
        row
        for row in rows
        if row["after_round"] == last and row["kind"] == "locality" and row["answers"]
        if says(row["base_reply"], row)
    ]


def neighbours(ledger: Ledger, data: Path, first: int) -> Iterator[dict[str, Any]]:
    """All that a data set has of the edits of a store, each once."""
    edited = [edit for round in ledger.lineage(ledger.head) for edit in round.edits()]
    records = {edit.id: edit for edit in load("counterfact", data, first).edits}
    if missing := [one.edit.id for one in edited if one.edit.id not in records]:
        raise UsageError(
            f"{data} has no {missing[0]} from record {first} on: give the run's --from"
        )
    asked = {one.edit.prompt for one in edited}
    for one in edited:
        for probe in records[one.edit.id].locality:
            if probe.prompt not in asked and not packaged_subjects_in(probe.prompt):
                asked.add(probe.prompt)
                yield {"prompt": probe.prompt, "answers": probe.answers}


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="what stores are of")
@click.option("--from", "first", default=500, help="the first record that the run might draw")
@click.option("--json", "out", type=click.Path(path_type=Path), help="a file that gets a line each")
@click.option("--model", default="smollm2")
@click.option("--tokens", default=32)
def main(
    paths: tuple[Path, ...],
    data: Path | None,
    first: int,
    out: Path | None,
    model: str,
    tokens: int,
) -> None:
    """Count both, of each path and of all."""
    if data is None and any(path.is_dir() for path in paths):
        raise click.UsageError("stores are asked what a data set has: give its file with --data")
    try:
        with TerminalProgress(Console(stderr=True)) as progress:
            counts = list(count(paths, data, first, model, tokens, progress))
    except CorsaError as error:
        raise click.ClickException(str(error)) from error
    known = sum(found["known"] for found in counts)
    for who in ("edited", "bfloat16"):
        kept = sum(found[who] for found in counts)
        low, high = scipy.stats.binomtest(kept, known).proportion_ci(method="wilson")
        click.echo(f"{who}: {kept} of {known} = {kept / known:.1%} (95 %: {low:.1%} to {high:.1%})")
    if out is not None:
        out.write_text("".join(f"{json.dumps(found)}\n" for found in counts), "utf-8")


def count(
    paths: tuple[Path, ...],
    data: Path | None,
    first: int,
    model: str,
    tokens: int,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """How many of each path are known, and kept."""
    base = load_model(model, make_config({}))
    rounded = load_model(model, make_config({"dtype": "bfloat16"}))

    def ask(
        who: str, rows: list[dict[str, Any]], of: BaseModel, adapter: str | None = None
    ) -> list[str]:
        progress.begin(f"{path}: asking {who}", len(rows))
        prompts = [row["prompt"] for row in rows]
        return [
            reply.text
            for reply in ModelAnswerer(of, adapter).answers(prompts, tokens, progress=progress)
        ]

    for number, path in enumerate(paths):
        asked = None
        if data is not None and path.is_dir():
            ledger = Ledger(path)
            known = list(neighbours(ledger, data, first))
            asked = len(known)
            said = ask("the base model", known, base)
            known = [row for row, text in zip(known, said, strict=True) if says(text, row)]
            folder = path / "rounds" / f"{ledger.head:04d}"
            # Stores have their last rounds in common, a model no two adapters of a name.
            adapter = base.load_adapter(f"store {number}", folder).name
            now = ask("the edited model", known, base, adapter)
        else:
            known = measured(path)
            now = [row["reply"] for row in known]
        floor = ask("the base model in bfloat16", known, rounded)
        yield {
            "of": path.name,
            "asked": asked,
            "known": len(known),
            "edited": sum(says(text, row) for text, row in zip(now, known, strict=True)),
            "bfloat16": sum(says(text, row) for text, row in zip(floor, known, strict=True)),
        }


if __name__ == "__main__":
    main()
