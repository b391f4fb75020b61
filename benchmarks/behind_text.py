r"""Generality behind other people's text, finely: every edit's wordings behind many prefixes.

    corsa bench counterfact --data counterfact.json --methods corsa --rounds 1 --edits 20 --seeds 0 \
        --to 500 --keep-stores --out dev
    python benchmarks/behind_text.py counterfact.json dev/stores/*/rounds/0001

A round of twenty CounterFact edits has forty paraphrases: a step of generality is 2.5 points. Their
prefixes (unrelated text, often a scrap of an article) and wordings are independent, so each edit is
asked in its own wordings behind prefixes of other records, 16 times; and, as often, in the second turn
of a dialogue, after a question of another record and its true answer. Development records only, 0 to
499. Right is what greedy decoding would write, end-of-turn included; ± is the standard error over edits.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corsa.chat import History
from corsa.config import Config
from corsa.models import load_model
from corsa.step import Example, score_examples

DEVELOPMENT = 500


def main() -> None:
    """Print a line of JSON for each round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("counterfact", type=Path)
    parser.add_argument("rounds", type=Path, nargs="+", help="folders of rounds of a store")
    parser.add_argument("--prefixes", type=int, default=8, help="for each wording")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    records = json.loads(options.counterfact.read_text("utf-8"))[:DEVELOPMENT]
    prefixes = [
        prefix
        for record in records
        for prefix, _ in parts(record["paraphrase_prompts"], record["requested_rewrite"]["subject"])
        if prefix.strip()
    ]
    turns = [
        (rewrite["prompt"].format(rewrite["subject"]), rewrite["target_true"]["str"])
        for rewrite in (record["requested_rewrite"] for record in records)
    ]
    base = load_model("smollm2", Config())
    for number, folder in enumerate(options.rounds):
        adapter = base.load_adapter(f"round{number}", folder)
        edits = [
            json.loads(line)
            for line in (folder / "edits.jsonl").read_text("utf-8").split("\n")
            if line
        ]
        rng = np.random.default_rng(options.seed)
        shares: dict[str, list[float]] = defaultdict(list)
        for edit in edits:
            found = parts(edit["paraphrases"], edit["subject"])
            wordings = [wording for _, wording in found]
            others = [turn for turn in turns if turn[0] != edit["prompt"]]
            before = [prefixes[i] for i in rng.choice(len(prefixes), options.prefixes, False)]
            earlier = [others[i] for i in rng.choice(len(others), options.prefixes, False)]
            # Prompts, each with what was said before it.
            asked: dict[str, list[tuple[str, History]]] = {
                "alone": [(wording, ()) for wording in wordings],
                "own prefix": [(paraphrase, ()) for paraphrase in edit["paraphrases"]],
                "other prefixes": [(text + wording, ()) for wording in wordings for text in before],
                "second turn": [(wording, (turn,)) for wording in wordings for turn in earlier],
                "prompt, second turn": [(edit["prompt"], (turn,)) for turn in earlier],
            }
            with base.using(adapter.name):
                for name, prompts in asked.items():
                    exchanges = [
                        base.chat.exchange(prompt, edit["target_new"], history=history)
                        for prompt, history in prompts
                    ]
                    scores = score_examples(base.forward, [Example(e) for e in exchanges])
                    if scores:
                        shares[name].append(float(np.mean([score.right for score in scores])))
        base.drop_adapter(adapter.name)
        told = {name: _told(values) for name, values in shares.items()}
        print(json.dumps({"round": str(folder), "edits": len(edits), **told}), flush=True)


def parts(paraphrases: Sequence[str], subject: str) -> list[tuple[str, str]]:
    """Paraphrases as what stands before the last sentence that names the subject, and that sentence."""
    found = []
    for text in paraphrases:
        place = text.rfind(subject)
        if place >= 0:
            ends = [0, *(m.end() for m in re.finditer(r"(?:[.?!)] |\n)", text[:place]))]
            found.append((text[: ends[-1]], text[ends[-1] :]))
    return found


def _told(values: Sequence[float]) -> str:
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{100 * np.mean(values):.1f} ± {100 * error:.1f} %"


if __name__ == "__main__":
    main()
