"""How far the gates of edited subjects open at other names of the same words, and at their own.

    python benchmarks/namesakes.py counterfact.json
    python benchmarks/namesakes.py counterfact.json --half second --facts facts.jsonl
    corsa update facts.jsonl --store names --set drift=false

For 40 development subjects of several words, `namesakes.jsonl` has three real names each, written by
hand, that share a word or a kind with the subject. Each stands in the edit's own prompt. No value is
found: what a gate lets through, times what it is multiplied with, is the part of any value that would be
added there; 1 is wanted at the subject in wordings that were not solved for, 0 at another's name. With
`--facts` nothing is measured: the edits are written with the other names as `locality`, for a round to
say what is replied there.
"""

import json
from pathlib import Path
from typing import Any

import click
import torch

from corsa import beginning, solving
from corsa.bench.datasets import load
from corsa.company import Company
from corsa.config import make_config
from corsa.edits import Edit
from corsa.errors import CorsaError
from corsa.models import load_model
from corsa.progress import Silent
from corsa.step import Example
from corsa.values import Told

NAMES = Path(__file__).with_suffix(".jsonl")
# A share of a value from which it shows, and below which it does not.
SHOWS, HOLDS = 0.1, 0.8


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--model", default="smollm2")
@click.option("--half", type=click.Choice(["first", "second", "both"]), default="both")
@click.option("--facts", type=click.Path(path_type=Path), help="a file that gets the edits instead")
@click.option("--keys", default=beginning._KEYS, help="wordings by which a subject is known")
def main(data: Path, model: str, half: str, facts: Path | None, keys: int) -> None:
    """Measure both."""
    names = [json.loads(line) for line in NAMES.read_text("utf-8").splitlines()]
    middle = len(names) // 2
    names = {"first": names[:middle], "second": names[middle:], "both": names}[half]
    of_subject: dict[str | None, Edit] = {}
    try:
        read = load("counterfact", data, 0, 500).edits
    except CorsaError as error:
        raise click.ClickException(str(error)) from error
    for edit in read:
        of_subject.setdefault(edit.subject, edit)
    if missing := [row["subject"] for row in names if row["subject"] not in of_subject]:
        raise click.ClickException(f"no edit of the first 500 in {data} is about {missing[0]}")
    edits = [of_subject[row["subject"]] for row in names]
    if facts is not None:
        rows = (_fact(edit, row["others"]) for edit, row in zip(edits, names, strict=True))
        facts.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        return
    config = make_config({})
    base = load_model(model, config)
    adapter = base.new_adapter("measured", config)
    company = Company(base, edits, [], edits, config, Silent())
    company.ask()
    own = [
        beginning.Own(edit.prompt, Example(base.chat.exchange(edit.prompt, edit.target_new)))
        for edit in company.own
    ]
    with base.using(adapter.name):
        site, *more = solving.sites(adapter, config, own[0].example.chosen)
        begun = beginning._Begun(
            adapter, own, company, config, Silent(), [site, *more], lambda _, found: found()
        )
        subjects = begun.subjects(range(len(own)))
        gate = base.hf.get_submodule(site.reading[0])

        def at(told: list[Told]) -> torch.Tensor:
            return solving._at_spots(base, [gate], site.layer, solving._cut(told)).inputs[0]

        known, near, unseen, people, others = ([] for _ in range(5))
        for value, subject in enumerate(subjects):
            edit = company.own[subject.facts[0]]
            row = next(row for row in names if row["subject"] == edit.subject)
            asked = list(begun._asked(value, subject))
            known.append(at([*asked, *begun._worded(value, subject, keys, 1000)]))
            near.append(at(list(begun._near(value, subject))))
            unseen.append(at(list(begun._worded(value, subject, 40, 2000))))
            people.append(at(list(beginning._worded(base, edit, value, edit.paraphrases))))
            others.append(
                at(
                    [
                        Told(
                            Example(base.chat.exchange(prompt, edit.target_new)),
                            base.chat.place_of(prompt, name),
                            value,
                        )
                        for name in row["others"]
                        for prompt in [edit.prompt.replace(edit.subject or "", name)]
                    ]
                )
            )
        standing = solving.read(adapter, site, company.standing())
    knows, always, metric = solving.detectors(known, near, standing.inputs)
    closed = solving.thresholds(knows, known)[:, None]
    gates = solving._OPEN * (knows - closed * always) / (1 - closed)
    flat = ((2 - closed) * always - knows) / (1 - closed)
    full = float(site.act(torch.tensor(solving._OPEN)))

    def opening(value: int, inputs: torch.Tensor) -> torch.Tensor:
        return site.act(inputs.double() @ gates[value]) / full

    told = solving.tell_apart(flat, opening, known, near, metric)

    def share(value: int, inputs: torch.Tensor) -> torch.Tensor:
        return opening(value, inputs) * (inputs.double() @ told[value])

    for label, parts in (("packaged wordings", unseen), ("the data set's paraphrases", people)):
        found = torch.cat([share(value, part) for value, part in enumerate(parts)])
        click.echo(
            f"{label}: {len(found)}, on the mean {found.mean():.3f}, standard deviation "
            f"{found.std():.3f}, below {HOLDS}: {(found < HOLDS).double().mean():.1%}"
        )
    found = [share(value, part).abs() for value, part in enumerate(others)]
    every = torch.cat(found)
    click.echo(
        f"other names: {len(every)}, above {SHOWS}: {int((every > SHOWS).sum())}, above 0.3: "
        f"{int((every > 0.3).sum())}"
    )
    for row, part in zip(names, found, strict=True):
        for name, value in zip(row["others"], part.tolist(), strict=False):
            if value > SHOWS:
                click.echo(f"  {row['subject']} at {name}: {value:.2f}")


def _fact(edit: Edit, others: list[str]) -> dict[str, Any]:
    about = [edit.prompt.replace(edit.subject or "", name) for name in others]
    return {
        "id": edit.id,
        "prompt": edit.prompt,
        "target_new": edit.target_new,
        "target_old": edit.target_old,
        "subject": edit.subject,
        "paraphrases": list(edit.paraphrases),
        "locality": [{"prompt": prompt} for prompt in about],
    }


if __name__ == "__main__":
    main()
