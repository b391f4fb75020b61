"""What each answer that an edited model no longer says was lost to.

    corsa bench counterfact --data counterfact.json … --methods corsa --keep-stores --out compared
    python benchmarks/lost_to.py compared/stores/* --data counterfact.json

Asked is what `kept_floor.py` asks a store: all neighbours whose answer the base model says. How many of
them it says after each round; of those lost after the last, at how many a neuron says more than a tenth
of its value, in the prompt or in what the base model replied; of the others, how many the base model
loses, too, without the units that were given away and with nothing instead.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from kept_floor import neighbours, says
from rich.console import Console

from corsa.answerers import ModelAnswerer
from corsa.chat import Exchange
from corsa.config import make_config
from corsa.errors import CorsaError
from corsa.ledger import Ledger
from corsa.models import Adapter, BaseModel, load_model
from corsa.render import TerminalProgress
from corsa.solving import _OPEN

# A share of a value from which it counts as said.
SAID = 0.1


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--from", "first", default=500, help="the first record that the run might draw")
@click.option("--json", "out", type=click.Path(path_type=Path), help="a file that gets a line each")
@click.option("--model", default="smollm2")
@click.option("--tokens", default=32)
def main(
    stores: tuple[Path, ...], data: Path, first: int, out: Path | None, model: str, tokens: int
) -> None:
    """Count them."""
    lost = list[dict[str, Any]]()
    try:
        for store in stores:
            lost += _lost(store, data, first, load_model(model, make_config({})), tokens)
    except CorsaError as error:
        raise click.ClickException(str(error)) from error
    opened = [row for row in lost if row["opened"] > SAID]
    rest = [row for row in lost if row not in opened]
    missing = sum(not row["without"] for row in rest)
    click.echo(
        f"lost: {len(lost)}; at {len(opened)} a neuron says more than a tenth of its value; of the "
        f"other {len(rest)} the base model without the units given away loses {missing}"
    )
    if out is not None:
        out.write_text("".join(f"{json.dumps(row)}\n" for row in lost), "utf-8")


def _lost(
    store: Path, data: Path, first: int, base: BaseModel, tokens: int
) -> Iterator[dict[str, Any]]:
    ledger = Ledger(store)
    rows = list(neighbours(ledger, data, first))

    def ask(who: str, adapter: str | None = None) -> list[str]:
        with TerminalProgress(Console(stderr=True)) as progress:
            progress.begin(f"{store}: asking {who}", len(rows))
            prompts = [row["prompt"] for row in rows]
            answers = ModelAnswerer(base, adapter).answers(prompts, tokens, progress=progress)
            return [reply.text for reply in answers]

    said = ask("the base model")
    known = [(row, text) for row, text in zip(rows, said, strict=True) if says(text, row)]
    rows = [row for row, _ in known]
    counts = []
    for number in range(1, ledger.head + 1):
        adapter = base.load_adapter(f"round {number}", store / "rounds" / f"{number:04d}")
        now = ask(f"round {number}", adapter.name)
        counts.append(sum(map(says, now, rows)))
    click.echo(f"{store}: of {len(rows)} kept after each round: {counts}")
    exchanges = [
        Exchange(base.chat.prompt_ids(row["prompt"]), tuple(ids))
        for row, text in known
        for ids in [base.tokenizer(text, add_special_tokens=False)["input_ids"]]
    ]
    opened = _opened(base, adapter, exchanges)
    without = ask("the base model without the units")
    for row, before, after, share, bare in zip(
        rows, (text for _, text in known), now, opened, without, strict=True
    ):
        if not says(after, row):
            told = {"base": before, "edited": after, "opened": share, "without": says(bare, row)}
            yield {"of": store.name, **row, **told}


def _opened(base: BaseModel, adapter: Adapter, exchanges: list[Exchange]) -> list[float]:
    """The most that a neuron says in each, as a share of its value; then its unit says nothing."""
    found, given = torch.zeros(len(exchanges)), list[tuple[Any, torch.Tensor]]()
    for layer, name in base.outputs():
        gate = f"{name.rpartition('.')[0]}.gate_proj"
        if not adapter.acts_on(gate):
            continue
        taken = adapter.moved(gate)
        if not 0 < int(taken.sum()) <= adapter.rank(gate):
            continue
        module, number = base.hf.get_submodule(name), 0
        with base.using(adapter.name):
            for passed in base.forward.passing(exchanges, [module], layer):
                said = passed.inputs[0][:, taken].abs().amax(1) / _OPEN
                for path in passed.paths:
                    found[number] = max(found[number], said[path].max())
                    number += 1
        given.append((module.base_layer.weight, taken))
    with torch.no_grad():
        for weight, taken in given:
            weight[:, taken] = 0
    return found.tolist()


if __name__ == "__main__":
    main()
