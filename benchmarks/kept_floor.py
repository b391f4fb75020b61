"""How much of what a model knows the same model still says in bfloat16: the floor under kept knowledge.

    corsa bench counterfact … --methods corsa --out compared
    python benchmarks/kept_floor.py compared/generations.jsonl …

Of the neighbours whose answer the base model says, after the last round: how often the edited model
still says it, and how often the base model does in bfloat16.
"""

import json
from pathlib import Path
from typing import Any

import click

from corsa.answerers import ModelAnswerer
from corsa.config import make_config
from corsa.matching import contains
from corsa.models import load_model


def says(reply: str, row: dict[str, Any]) -> bool:
    """Whether an answer of a probe is in a reply."""
    return any(contains(reply, answer) for answer in row["answers"])


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--model", default="smollm2")
@click.option("--tokens", default=32)
def main(files: tuple[Path, ...], model: str, tokens: int) -> None:
    """Count both."""
    known = []
    for file in files:
        rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
        last = max(row["after_round"] for row in rows)
        known += [
            row
            for row in rows
            if row["after_round"] == last and row["kind"] == "locality" and row["answers"]
            if says(row["base_reply"], row)
        ]
    rounded = ModelAnswerer(load_model(model, make_config({"dtype": "bfloat16"})))
    replies = rounded.answers([row["prompt"] for row in known], tokens)
    for who, said in (
        ("edited", [row["reply"] for row in known]),
        ("base in bfloat16", [reply.text for reply in replies]),
    ):
        kept = sum(says(reply, row) for reply, row in zip(said, known, strict=True))
        print(f"{who}: {kept} of {len(known)} = {kept / len(known):.1%}")


if __name__ == "__main__":
    main()
