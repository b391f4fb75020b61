"""What giving an MLP's units away costs with nothing written there, by layers.

    python benchmarks/given_away_by_layer.py counterfact.json 14:64,15:36 14:25,15:25,16:25,17:25

On what the base model replies to neighbours of development records (teacher forcing, 20 tokens):
KL(base ‖ other) in nats, and how often the likeliest token is another. Units are chosen, and the others
made to make up for them, as a round does (`corsa.sparing`), in a rank of 128 less those given away.
"""

from pathlib import Path

import click
import torch

from corsa import solving
from corsa.answerers import ModelAnswerer
from corsa.bench.datasets import load
from corsa.chat import Exchange
from corsa.company import Company
from corsa.config import make_config
from corsa.edits import Edit
from corsa.models import load_model
from corsa.progress import Silent
from corsa.sparing import make_up, spare

TOKENS, PROMPTS = 20, 110
# Something must be edited where a round would look at what else must stand.
EDIT = Edit("The mother tongue of Nobody Here is", "Zulu", subject="Nobody Here")


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("choices", nargs=-1, required=True, metavar="LAYER:UNITS,... ...")
@click.option("--model", default="smollm2")
def main(data: Path, choices: tuple[str, ...], model: str) -> None:
    """Measure each choice of layers."""
    config = make_config({"solve_layers": "0-0.9", "layers": "all"})
    base = load_model(model, config)
    adapter = base.new_adapter("measured", config)
    company = Company(base, [EDIT], [], [EDIT], config, Silent())
    company.ask()
    edits = load("counterfact", data, 0, 500).edits
    prompts = [edit.locality[3].prompt for edit in edits[::4]][:PROMPTS]
    replies = [
        base.tokenizer(reply.text, add_special_tokens=False)["input_ids"][:TOKENS]
        for reply in ModelAnswerer(base, None).answers(prompts, TOKENS)
    ]
    exchanges = [
        Exchange(base.chat.prompt_ids(prompt), tuple(reply))
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply
    ]
    said = base.forward.distributions(exchanges)
    names = [name for _, name in base.outputs()]
    probe = base.chat.exchange(EDIT.prompt, EDIT.target_new)
    sites = {names.index(site.down): site for site in solving.sites(adapter, config, probe)}
    standing = company.standing()
    for choice in choices:
        written = []
        with torch.no_grad():
            for layer, units in (map(int, part.split(":")) for part in choice.split(",")):
                site = sites[layer]
                reading = [base.hf.get_submodule(name) for name in site.reading]
                down = base.hf.get_submodule(site.down)
                inputs = solving.read(adapter, site, standing).inputs
                directions = solving._weights(down).matrix
                squares = solving._mean(site, reading, inputs, lambda x: x.square().sum(0))
                costs = squares * directions.square().sum(0)
                among = costs.argsort()[: solving._AMONG]
                moment = solving._mean(
                    site, reading, inputs, lambda x, among=among: x[:, among].T @ x[:, among]
                )
                gone = torch.zeros(len(among), dtype=torch.bool)
                gone[spare(directions[:, among], moment, gone, units)] = True
                columns, known = make_up(directions[:, among], moment, gone, 128 - units)
                directions[:, among] += columns @ known
                directions[:, among[gone]] = 0
                written.append((down.base_layer.weight, directions))
            before = [weight.clone() for weight, _ in written]
            for weight, directions in written:
                weight.copy_(directions)
            found = base.forward.distributions(exchanges)
            for (weight, _), old in zip(written, before, strict=True):
                weight.copy_(old)
        pairs = list(zip(said, found, strict=True))
        kl = torch.cat([(one.exp() * (one - other)).sum(-1) for one, other in pairs])
        other = torch.cat([one.argmax(-1) != two.argmax(-1) for one, two in pairs])
        print(
            f"{choice}: KL {kl.mean():.5f}; another token {other.float().mean():.2%} of {len(other)}"
        )


if __name__ == "__main__":
    main()
