"""The edits as earlier turns of the conversation: no weights change.

The honest opponent of everything that trains. As turns and not as a list of facts: small models answer
as they were seen to answer, and make little of a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from corsa.answerers import Answerer, ContextAnswerer
from corsa.errors import UsageError
from corsa.files import json_lines
from corsa.methods import Outcome, Task
from corsa.models import BaseModel

_FILE = "context.jsonl"

Fact = tuple[str, str]


class InContext:
    """Every fact that holds was asked and answered before every question."""

    kind = "context"

    def edit(self, task: Task) -> Outcome:
        """Collect the facts that hold: those of earlier rounds first.

        Args:
            task: the round.

        Returns:
            The facts and whoever answers with them.

        Raises:
            UsageError: if they fill the model's context.
        """
        pairs = facts_that_hold(task)
        answerer = ContextAnswerer(task.base, pairs)
        used = len(task.base.chat.prompt_ids("", history=pairs))
        if (limit := task.base.context_length) is not None and used > limit // 2:
            raise UsageError(
                f"{len(pairs)} facts take {used} of the {limit} tokens {task.base.source.name} can "
                "read: use a method that trains, or fewer facts"
            )

        def save(folder: Path) -> None:
            write_facts(folder, pairs)

        return Outcome(self.kind, answerer, save, nothing, {"facts": len(pairs), "tokens": used})

    def open(self, base: BaseModel, folder: Path) -> tuple[Answerer, Callable[[], None]]:
        """Read the facts back.

        Args:
            base: the model.
            folder: where they are.

        Returns:
            Whoever answers with them, and nothing to free.
        """
        return ContextAnswerer(base, read_facts(folder)), nothing


def facts_that_hold(task: Task) -> list[Fact]:
    """The facts after a round, those of earlier rounds first.

    Args:
        task: the round.

    Returns:
        Prompt and new answer of each.
    """
    gone = {key for p in task.plan for key in (*p.supersedes, p.repeats)}
    facts = [p.edit for p in (*task.history, *task.plan) if p.key not in gone]
    return [(edit.prompt, edit.target_new) for edit in facts]


def write_facts(folder: Path, facts: Sequence[Fact]) -> None:
    """Write facts as a round's artefact.

    Args:
        folder: where to; it must exist.
        facts: prompts and new answers.
    """
    records = [{"prompt": prompt, "target_new": target} for prompt, target in facts]
    (folder / _FILE).write_text(json_lines(records), "utf-8")


def read_facts(folder: Path) -> list[Fact]:
    """Read back what `write_facts` wrote.

    Args:
        folder: where it is.

    Returns:
        Prompts and new answers.
    """
    lines = (folder / _FILE).read_text("utf-8").split("\n")[:-1]
    return [(r["prompt"], r["target_new"]) for r in map(json.loads, lines)]


def nothing() -> None:
    """What frees an answerer that holds nothing."""
