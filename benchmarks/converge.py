r"""Does a round of N edits converge with default settings? One line of JSON.

python benchmarks/converge.py --counterfact counterfact.json --edits 50
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from corsa import Store
from corsa.validation import edit_from_record


def main() -> None:
    """Run one round and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()
    rows = json.loads(options.counterfact.read_text("utf-8"))[options.skip :][: options.edits]
    bare = [
        {**row, "neighborhood_prompts": row["neighborhood_prompts"][:1], "paraphrase_prompts": []}
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = Store.open(Path(folder) / "store").update(map(edit_from_record, bare), drift=False)
    training = made.metrics["training"]
    row = {
        "edits": options.edits,
        "reliability": made.metrics["reliability"],
        "converged": training["converged"],
        "steps": training["steps"],
        "seconds": made.seconds,
        "protocol": made.metrics["protocol"],
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
