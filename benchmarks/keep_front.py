r"""What an edit costs its surroundings, by setting: one round on CounterFact, one line a setting.

    python benchmarks/keep_front.py --counterfact counterfact.json --zsre zsre.json --edits 10 \\
        --set positives=0,contrast=0,keep_pool=0,keep_plain=0 --set ascent=lagged --set contrast=2

Development records only: CounterFact from the front of the file (`--skip`), two of ten neighbours, and
zsRE's unrelated questions. What is reported elsewhere is measured on other records.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from corsa import Edit, Store
from corsa.metrics import mean, of_kind, score_from_record
from corsa.validation import edit_from_record


def main() -> None:
    """Run every setting and print a line of JSON for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--zsre", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--append", type=Path, help="a file that gets the lines, too")
    parser.add_argument("--set", dest="settings", action="append", required=True)
    options = parser.parse_args()
    rows = json.loads(options.counterfact.read_text("utf-8"))[options.skip :][: options.edits]
    edits = [_edit(row) for row in rows]
    loc = [row["loc"] for row in json.loads(options.zsre.read_text("utf-8"))]
    questions = [f"{text.removeprefix('nq question: ').capitalize()}?" for text in loc]
    questions = list(dict.fromkeys(questions))[: options.questions]
    edits[0] = _with_probes(edits[0], questions)
    for text in options.settings:
        settings = dict(pair.split("=") for pair in text.split(","))
        with tempfile.TemporaryDirectory() as folder:
            made = Store.open(Path(folder) / "store").update(edits, drift=False, **settings)
        scores = [score_from_record(record) for record in made.generations]
        near = [s for s in of_kind(scores, "locality") if s.prompt not in questions]
        far = [s for s in of_kind(scores, "locality") if s.prompt in questions]
        row = {
            "settings": text,
            "reliability": made.metrics["reliability"],
            "generality": made.metrics["generality"],
            "generality_contains": made.metrics["generality_rules"]["contains"],
            "leak_near": mean(s.leak for s in near),
            "agree_near": mean(s.agrees for s in near),
            "kl_near": mean(s.kl for s in near),
            "kept_near": mean(s.contains for s in near if s.base_contains),
            "agree_far": mean(s.agrees for s in far),
            "kl_far": mean(s.kl for s in far),
            "steps": made.metrics["training"]["steps"],
            "converged": made.metrics["training"]["converged"],
            "fresh": _last_fresh(made.metrics["training"]["history"]),
            "seconds": made.seconds["train"],
        }
        print(json.dumps(row), flush=True)
        if options.append:
            with options.append.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _last_fresh(history: list[dict]) -> float | None:
    """Share of fresh wordings that were right over the last ten steps."""
    return mean(entry["fresh"] for entry in history[-10:] if "fresh" in entry)


def _edit(row: dict) -> Edit:
    row = {**row, "neighborhood_prompts": row["neighborhood_prompts"][:2]}
    return edit_from_record(row)


def _with_probes(edit: Edit, questions: list[str]) -> Edit:
    record = edit.to_record()
    record["locality"] = [*record.get("locality", []), *({"prompt": q} for q in questions)]
    return Edit.from_record(record)


if __name__ == "__main__":
    main()
