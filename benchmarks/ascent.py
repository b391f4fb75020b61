r"""Does a cheaper way uphill keep what SAM is for? The retention matrix by kind of ascent, over seeds.

    python benchmarks/ascent.py --counterfact counterfact.json --out benchmarks/results/ascent.jsonl

Rounds of edits with nothing replayed and nothing kept, so that forgetting is as strong as it gets. A
seed decides which records are drawn; every kind gets the same. One line of JSON per finished run; what
is in the file already is not run again. `half` looks uphill on half of the batch, `alternate` in every
other step; both exist here only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import corsa.training
from corsa import Store
from corsa.projection import merge
from corsa.step import corsa_step, loss_gradients
from corsa.validation import edit_from_record

KINDS: dict[str, dict[str, Any]] = {
    "none": {"sam": False},
    "exact": {},
    "lagged": {"ascent": "lagged"},
    "half": {},
    "alternate": {},
}


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument(
        "--first", type=int, default=200, help="records to draw from: first and last"
    )
    parser.add_argument("--last", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--edits", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lines = options.out.read_text("utf-8").splitlines() if options.out.exists() else []
    done = {(row["kind"], row["seed"]) for row in map(json.loads, lines)}
    records = json.loads(options.counterfact.read_text("utf-8"))[options.first : options.last]
    for seed in options.seeds:
        for kind in options.kinds:
            if (kind, seed) not in done:
                row = run(kind, seed, records, options.rounds, options.edits)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def run(
    kind: str, seed: int, records: list[dict[str, Any]], rounds: int, edits: int
) -> dict[str, Any]:
    """Some rounds on a fresh store; the matrix after the last."""
    order = np.random.default_rng(seed).permutation(len(records))
    bare = {"neighborhood_prompts": [], "paraphrase_prompts": []}
    drawn = [edit_from_record({**records[i], **bare}) for i in order[: rounds * edits]]
    settings = {
        "replay": 0,
        "keep_pool": 0,
        "keep_plain": 0,
        "positives": 0,
        "contrast": 0,
        "drift": False,
        "seed": seed,
        # What was measured, whatever the defaults have become since.
        "ascent": "exact",
        "layers": "all",
        "parts": "all",
        "train_dtype": "float32",
        "learning_rate": 5e-4,
    }
    corsa.training.corsa_step = {"half": _half, "alternate": _alternating()}.get(kind, corsa_step)
    steps, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store")
        for start in range(0, len(drawn), edits):
            made = store.update(drawn[start : start + edits], **{**settings, **KINDS[kind]})
            steps.append(made.metrics["training"]["steps"])
            seconds.append(made.seconds["train"])
        retention = made.metrics["retention"]
    return {
        "kind": kind,
        "seed": seed,
        "rounds": rounds,
        "edits": edits,
        "matrix": retention["reliability"]["matrix"],
        "forgetting": retention["reliability"]["forgetting"],
        "steps": steps,
        "train_seconds": seconds,
    }


def _half(forward: Any, params: Any, batch: Any, config: Any, joined: Any, _: Any) -> Any:
    found = loss_gradients(forward, params, batch[: (len(batch) + 1) // 2], config)
    uphill = merge(list(found.gradients.values()), config.projection)
    return corsa_step(forward, params, batch, config, joined, uphill)


def _alternating() -> Any:
    count = 0

    def step(forward: Any, params: Any, batch: Any, config: Any, joined: Any, _: Any) -> Any:
        nonlocal count
        count += 1
        return corsa_step(forward, params, batch, replace(config, sam=count % 2 == 1), joined)

    return step


if __name__ == "__main__":
    main()
