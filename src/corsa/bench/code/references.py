"""Before any number: which tasks work here at all.

A reference solution must pass all tests with its update and fail one without it. Where it does not
- another version of a library, a platform, a fault of the record - the task cannot tell anything,
and is left out by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from corsa.bench.code.programs import programs
from corsa.bench.code.records import Task, Update
from corsa.bench.code.testing import Pool, Trial, Verdict
from corsa.bench.datasets import LeftOut
from corsa.files import sha256_text
from corsa.memory import recalled, remember
from corsa.progress import Progress


class Checked(NamedTuple):
    """Updates with the tasks that work, and the others by name."""

    updates: tuple[Update, ...]
    left_out: tuple[LeftOut, ...]


def check_references(updates: Sequence[Update], pool: Pool, progress: Progress) -> Checked:
    """Run every reference solution with its update and without it; what was found out is kept.

    What was killed or took too long is run again the next time: that may have been a busy machine.

    Args:
        updates: all.
        pool: runs them.
        progress: told after each task.

    Returns:
        The updates with their working tasks, maybe none, and the other tasks by name.
    """
    tried = [[(t, trial(update, t, t.reference)) for t in update.tasks] for update in updates]
    conditions = pool.conditions()
    keys = {one: [*conditions, sha256_text(repr(one))] for tasks in tried for _, one in tasks}
    faults = {one: recalled("references", key) for one, key in keys.items()}
    new = [one for one, what in faults.items() if what is None]
    progress.begin("running the reference solutions", sum(map(len, tried)))
    progress.advance(sum(map(len, tried)) - len(new))

    def keep(one: Trial, verdict: Verdict) -> None:
        if verdict.settled:
            remember("references", keys[one], fault(verdict))

    # All at once: between two updates no core waits for the last of the first one's.
    faults.update(zip(new, map(fault, pool.check(new, progress, keep)), strict=True))
    checked, left_out = [], []
    for update, tasks in zip(updates, tried, strict=True):
        works = tuple(task for task, one in tasks if not faults[one])
        checked.append(replace(update, tasks=works))
        left_out += [LeftOut(task.id, faults[one]) for task, one in tasks if faults[one]]
    return Checked(tuple(checked), tuple(left_out))


def trial(update: Update, task: Task, solution: str) -> Trial:
    """A solution and all programs that test it.

    Args:
        update: the task's.
        task: what was to be written.
        solution: what was written.

    Returns:
        Its programs, with the update and without.
    """
    return Trial(
        tuple(programs(update, task, solution, updated=True)),
        tuple(programs(update, task, solution, updated=False)),
    )


def fault(verdict: Verdict) -> str:
    """Why a reference solution cannot stand.

    Args:
        verdict: its own.

    Returns:
        The reason; "" if it passes with the update and not without.
    """
    if not verdict.new:
        return "has no tests"
    if not verdict.passes:
        failed = verdict.new.count(False)
        return f"{failed} of {len(verdict.new)} tests fail with the update: {verdict.reasons[0]}"
    if verdict.old is None:
        return f"may pass without the update, too: {verdict.reason_old}"
    return "passes without the update, too" if verdict.old else ""
