"""How much of what a default store changed elsewhere comes from the neurons that it gave away.

    corsa bench counterfact … --methods corsa --keep-stores --out compared
    python benchmarks/given_away.py compared/stores/corsa-seed1 compared/generations.jsonl

On what the base model replied to neighbours (teacher forcing, 24 tokens of every second one): KL(base ‖
other) in nats and how often the likeliest token is another, for each round, for the base model without
the neurons that the last round had given away and nothing instead, and for it in bfloat16.
"""

import json
from pathlib import Path

import click
import torch

from corsa.chat import Exchange
from corsa.config import make_config
from corsa.models import BaseModel, load_model

TOKENS = 24


@click.command()
@click.argument("store", type=click.Path(exists=True, path_type=Path))
@click.argument("generations", type=click.Path(exists=True, path_type=Path))
@click.option("--model", default="smollm2")
def main(store: Path, generations: Path, model: str) -> None:
    """Count both."""
    base = load_model(model, make_config({}))
    rows = [json.loads(line) for line in generations.read_text("utf-8").split("\n") if line]
    last = max(row["after_round"] for row in rows)
    asked = [row for row in rows if row["kind"] == "locality" and row["after_round"] == last][::2]
    exchanges = [
        Exchange(base.chat.prompt_ids(row["prompt"]), tuple(reply[:TOKENS]))
        for row in asked
        for reply in [base.tokenizer(row["base_reply"], add_special_tokens=False)["input_ids"]]
        if reply
    ]
    said = base.forward.distributions(exchanges)

    def compare(name: str, adapter: str | None = None, of: BaseModel = base) -> None:
        with of.using(adapter):
            found = of.forward.distributions(exchanges)
        pairs = list(zip(said, found, strict=True))
        kl = torch.cat([(one.exp() * (one - other)).sum(-1) for one, other in pairs])
        other = torch.cat([one.argmax(-1) != two.argmax(-1) for one, two in pairs])
        print(
            f"{name}: KL {kl.mean():.5f}, median {kl.median():.5f}, 99 % {kl.quantile(0.99):.4f}; "
            f"another token {other.float().mean():.1%} of {len(other)}"
        )

    for number in range(1, last + 1):
        adapter = base.load_adapter(f"round-{number}", store / "rounds" / f"{number:04d}")
        compare(f"round {number}", adapter.name)
    given = 0
    for _, name in base.outputs():
        gate = f"{name.rpartition('.')[0]}.gate_proj"
        if not adapter.acts_on(gate):
            continue
        taken = adapter.moved(gate)
        if 0 < int(taken.sum()) <= adapter.rank(gate):  # layers that were trained have moved whole
            weight = base.hf.get_submodule(name).base_layer.weight
            with torch.no_grad():
                weight[:, taken] = 0
            given += int(taken.sum())
    compare(f"the base model without the {given} neurons given away")
    compare("the base model in bfloat16", of=load_model(model, make_config({"dtype": "bfloat16"})))


if __name__ == "__main__":
    main()
