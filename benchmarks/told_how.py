"""How facts are told to a small model: as a list in the question, or as earlier turns.

    python benchmarks/told_how.py counterfact.json

Twelve development records of CounterFact, the embedded model, 16 tokens a reply. Each edit's prompt is
asked with all twelve facts told, and one neighbouring prompt, whose answer must not become the new one.
"""

import json
import sys
from pathlib import Path

from corsa.answerers import ContextAnswerer, ModelAnswerer
from corsa.config import Config
from corsa.matching import contains, exact
from corsa.models import load_model


class Listing(ModelAnswerer):
    """The facts as lines of the question."""

    def __init__(self, base, facts):
        super().__init__(base)
        self.lines = "\n".join(f"{prompt} {answer}" for prompt, answer in facts)

    def answers(self, prompts, *rest):
        """See `Answerer`."""
        asked = [
            f"Facts that hold now:\n{self.lines}\n\nUsing them where they apply, answer:\n{prompt}"
            for prompt in prompts
        ]
        return super().answers(asked, *rest)


def main(path: str) -> None:
    """Ask in both ways and print the counts."""
    rows = json.loads(Path(path).read_text("utf-8"))[300:312]
    edits = [row["requested_rewrite"] for row in rows]
    facts = [(e["prompt"].format(e["subject"]), e["target_new"]["str"]) for e in edits]
    near = [row["neighborhood_prompts"][0] for row in rows]
    base = load_model("smollm2", Config())
    for name, told in (
        ("nothing told", ModelAnswerer(base)),
        ("list", Listing(base, facts)),
        ("earlier turns", ContextAnswerer(base, facts)),
        ("earlier turns, reversed", ContextAnswerer(base, facts[::-1])),
    ):
        replies = told.answers([prompt for prompt, _ in facts], 16)
        beside = told.answers(near, 16)
        pairs = [(reply.text, answer) for reply, (_, answer) in zip(replies, facts, strict=True)]
        counts = {
            "exact": sum(exact(*pair) for pair in pairs),
            "contains": sum(contains(*pair) for pair in pairs),
            "leak": sum(
                contains(reply.text, answer)
                for reply, (_, answer) in zip(beside, facts, strict=True)
            ),
        }
        print(f"{name}: {counts} of {len(rows)}")


if __name__ == "__main__":
    main(sys.argv[1])
