"""The nearest edits as earlier turns: no weights change, and the context does not grow with the store.

Nearness is the cosine of TF-IDF vectors of character n-grams: it needs no model and no word list of any
language, and it is bounded, so that "nothing is near" has a meaning. The n-grams are hashed: with a
vocabulary of the facts alone, what a question has of its own would not count, and every question would
be near to some fact of a small store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from corsa.answerers import Answerer, ContextAnswerer
from corsa.chat import History
from corsa.files import canonical_json
from corsa.methods import Outcome, Task
from corsa.methods.in_context import Fact, facts_that_hold, nothing, read_facts, write_facts
from corsa.models import BaseModel
from corsa.optional import optional

# Below this a fact is not shown. Of 8 to 300 CounterFact edits 95 % of the paraphrases are nearer than
# this to their own edit; of the packaged drift questions 75 % are farther from all of 300, and 98 %
# from all of 8.
SIMILAR = 0.2
_FILE = "retrieval.json"


class Retrieval:
    """The facts nearest to a question were asked and answered before it."""

    kind = "retrieval"

    def edit(self, task: Task) -> Outcome:
        """Collect the facts that hold: those of earlier rounds first.

        Args:
            task: the round.

        Returns:
            The facts and whoever answers with them.
        """
        facts, count = facts_that_hold(task), task.config.retrieved

        def save(folder: Path) -> None:
            write_facts(folder, facts)
            (folder / _FILE).write_text(canonical_json({"retrieved": count}), "utf-8")

        answerer = RetrievalAnswerer(task.base, facts, count)
        return Outcome(self.kind, answerer, save, nothing, {"facts": len(facts)})

    def open(self, base: BaseModel, folder: Path) -> tuple[Answerer, Callable[[], None]]:
        """Read the facts back.

        Args:
            base: the model.
            folder: where they are.

        Returns:
            Whoever answers with them, and nothing to free.
        """
        count = json.loads((folder / _FILE).read_text("utf-8"))["retrieved"]
        return RetrievalAnswerer(base, read_facts(folder), count), nothing


class RetrievalAnswerer(ContextAnswerer):
    """The base model told of the nearest facts before every question, or of none.

    Args:
        base: the model.
        facts: pairs of a prompt and its new answer.
        count: how many are told before a question at most.
    """

    def __init__(self, base: BaseModel, facts: Sequence[Fact], count: int) -> None:
        super().__init__(base, facts)
        self.count = count
        text = optional("sklearn.feature_extraction.text", "bench")
        self._vectors = optional("sklearn.pipeline", "bench").make_pipeline(
            text.HashingVectorizer(
                analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False, norm=None
            ),
            text.TfidfTransformer(),
        )
        self._known = self._vectors.fit_transform([prompt for prompt, _ in facts])

    def history(self, prompt: str) -> History:
        """The facts that a question is about, or may be.

        Args:
            prompt: the question.

        Returns:
            At most `count`, the nearest last: next to the question. Of equally near ones the newer last.
        """
        near = (self._known @ self._vectors.transform([prompt]).T).toarray()[:, 0]
        order = sorted(range(len(near)), key=lambda i: (near[i], i))[-self.count :]
        return [self.facts[i] for i in order if near[i] >= SIMILAR]
