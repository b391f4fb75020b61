r"""How little a model may stray before it begins its replies otherwise, whatever moved it.

    corsa bench counterfact --data counterfact.json --methods corsa --rounds 5 --edits 20 --seeds 1 \
        --from 500 --neighbours 2 --keep-stores --out compared
    python benchmarks/agreement.py compared/stores/* --json benchmarks/results/agreement.jsonl

Agreement and kept knowledge are shares of replies, KL is how far the distributions behind them moved.
A store's head is asked its own locality probes at several strengths: its adapter scaled (B times the
strength, so that what it learned fades), and Gaussian matrices of the same norms in place of A and B,
which learned nothing, edit nothing and so have nothing to leak. Where both give the same agreement at
the same KL, agreement is a matter of KL and of how near this model's replies stand to a tie.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from corsa.answerers import ModelAnswerer, RememberingAnswerer
from corsa.config import Config
from corsa.evaluation import REPLY_TOKENS, measure, questions_of
from corsa.floors import agreement_floors
from corsa.ledger import Ledger
from corsa.metrics import locality, mean, of_kind
from corsa.models import Adapter, load_model
from corsa.progress import Silent

# Random matrices need about four times the strength for the same KL.
TRAINED = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
RANDOM = (0.2, 0.4, 0.8, 1.6)


def main() -> None:
    """Print a line of JSON for every store and strength."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0, help="of the Gaussian matrices")
    parser.add_argument("--json", type=Path, help="a file that gets the lines, too")
    options = parser.parse_args()
    model = load_model("smollm2", Config())
    base = RememberingAnswerer(model)
    for number, path in enumerate(options.stores):
        ledger = Ledger(path)
        rounds = ledger.lineage(ledger.head)
        questions = [
            question
            for round in rounds
            for planned in round.edits()
            for question in questions_of(planned)
            if question.kind in ("edit", "locality")
        ]
        replies = base.answers([question.prompt for question in questions], REPLY_TOKENS)
        asked = [question.prompt for question in questions if question.kind == "locality"]
        floor = agreement_floors(model, base, [asked])[0]
        adapter = model.load_adapter(f"store{number}", rounds[-1].folder)
        updated = ModelAnswerer(model, adapter.name)
        for what, strength in _strengths(adapter, options.seed):
            scores = measure(
                questions,
                updated,
                base,
                replies,
                max_new_tokens=REPLY_TOKENS,
                progress=Silent(),
                previous={},
            )
            row = {
                "store": path.name,
                "what": what,
                "strength": strength,
                "right": mean(score.exact for score in of_kind(scores, "edit")),
                **locality(of_kind(scores, "locality"), floor),
            }
            line = json.dumps(row)
            print(line, flush=True)
            if options.json:
                with options.json.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        model.drop_adapter(adapter.name)


@torch.no_grad()
def _strengths(adapter: Adapter, seed: int) -> Iterator[tuple[str, float]]:
    """What acts, and how strongly; the adapter acts so while the consumer looks at it."""
    trained = {name: param.clone() for name, param in adapter.params.items()}
    rng = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(param.shape, generator=rng) for name, param in trained.items()}
    random = {name: noise[name] / noise[name].norm() * trained[name].norm() for name in noise}
    for what, weights, strengths in (("trained", trained, TRAINED), ("random", random, RANDOM)):
        for strength in strengths:
            for name, param in adapter.params.items():
                param.copy_(weights[name] * (strength if ".lora_B." in name else 1.0))
            yield what, strength


if __name__ == "__main__":
    main()
