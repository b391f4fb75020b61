r"""What a whole round costs, planning and evaluation included, by its number of edits.

    python benchmarks/round_cost.py --counterfact counterfact.json --edits 10 50 200
    python benchmarks/round_cost.py --counterfact counterfact.json --edits 10 100 1000 --visits 2

Default settings otherwise, each round on a fresh store. With `--visits` a round stops after that many
visits to each edit, otherwise when it has converged. One line of JSON a round. Base replies to the
packaged questions are remembered from run to run, as they are for users.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from corsa import Store
from corsa.validation import edit_from_record


def main() -> None:
    """Run one round of each size and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--edits", type=int, nargs="+", default=[50])
    parser.add_argument("--skip", type=int, default=0, help="records to leave out at the front")
    parser.add_argument("--visits", type=int, default=0)
    parser.add_argument("--paraphrases", type=int, default=0, help="measured of each edit, 0 to 2")
    parser.add_argument("--neighbours", type=int, default=0, help="measured of each edit, 0 to 10")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in options.settings)
    if options.visits:
        settings |= {"stop": "epochs", "epochs": str(options.visits)}
    records = _consistent(json.loads(options.counterfact.read_text("utf-8"))[options.skip :])
    for count in options.edits:
        print(json.dumps(_round(records[:count], settings, options)), flush=True)


def _consistent(records: list[dict]) -> list[dict]:
    """The first record of each subject and relation: a round with two targets for one is refused."""
    first: dict[tuple[str, str], dict] = {}
    for row in records:
        asked = row["requested_rewrite"]
        first.setdefault((asked["subject"].casefold(), asked["relation_id"]), row)
    return list(first.values())


def _round(records: list[dict], settings: dict[str, str], options: argparse.Namespace) -> dict:
    edits = [
        edit_from_record(
            row
            | {
                "paraphrase_prompts": row["paraphrase_prompts"][: options.paraphrases],
                "neighborhood_prompts": row["neighborhood_prompts"][: options.neighbours],
            }
        )
        for row in records
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = Store.open(Path(folder) / "store").update(edits, **settings)
    training = made.metrics["training"]
    return {
        "edits": len(edits),
        "settings": settings,
        "reliability": made.metrics["reliability"],
        "converged": training["converged"],
        "steps": training["steps"],
        "questions": len(made.generations),
        "seconds": made.seconds,
        "seconds_in_all": round(sum(made.seconds.values()), 1),
        "threads": torch.get_num_threads(),
        "protocol": made.metrics["protocol"],
    }


if __name__ == "__main__":
    main()
