"""The records of counterfact.json that nobody had looked at when the default was chosen.

    python benchmarks/untouched.py counterfact.json untouched.json
    corsa bench counterfact --data untouched.json …      # and what that run drew was looked at:
    python benchmarks/untouched.py counterfact.json untouched-2.json --after 1

Seeds draw from the same 500 records, so each further seed repeats about half of what those before drew.
What is left is in no draw of a run made before 2026-11-30, and changed no decision; after the run
on these, what that did not draw.
"""

import json
from pathlib import Path

import click

from corsa.bench.datasets import load
from corsa.bench.draws import shuffled
from corsa.errors import CorsaError

# By seed, how many edits were drawn of the records from this on.
FIRST = 500
DRAWN = {0: 20, 1: 100, 2: 100, 3: 100}


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--after", default=0, help="runs of 100 edits under seed 1 that were made on what was left"
)
def main(data: Path, out: Path, after: int) -> None:
    """Write them, in the order of the file."""
    try:
        edits = load("counterfact", data, FIRST).edits
    except CorsaError as error:
        raise click.ClickException(str(error)) from error
    drawn = {one.id for seed, count in DRAWN.items() for one in shuffled(edits, seed)[:count]}
    for _ in range(after):
        drawn |= {one.id for one in shuffled([e for e in edits if e.id not in drawn], 1)[:100]}
    left = {one.id for one in edits} - drawn
    records = json.loads(data.read_text("utf-8"))
    kept = [record for record in records if f"cf-{record['case_id']}" in left]
    out.write_text(json.dumps(kept, ensure_ascii=False, indent=0), "utf-8")
    click.echo(f"{len(kept)} of {len(records)} records")


if __name__ == "__main__":
    main()
