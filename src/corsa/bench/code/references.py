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
from corsa.progress import Progress


class Checked(NamedTuple):
    """Updates with the tasks that work, and the others by name."""

    updates: tuple[Update, ...]
    left_out: tuple[LeftOut, ...]


def check_references(updates: Sequence[Update], pool: Pool, progress: Progress) -> Checked:
    """Run every reference solution with its update and without it.

    Args:
        updates: all.
        pool: runs them.
        progress: told after each.

    Returns:
        The updates with their working tasks; an update without any is gone.
    """
    pairs = [(update, task) for update in updates for task in update.tasks]
    progress.begin("running the reference solutions", len(pairs))
    verdicts = pool.check([trial(u, t, t.reference) for u, t in pairs], progress)
    faults = [fault(verdict) for verdict in verdicts]
    left_out = [
        LeftOut(task.id, what) for (_, task), what in zip(pairs, faults, strict=True) if what
    ]
    working = {task.id for (_, task), what in zip(pairs, faults, strict=True) if not what}
    kept = [replace(u, tasks=tuple(t for t in u.tasks if t.id in working)) for u in updates]
    return Checked(tuple(update for update in kept if update.tasks), tuple(left_out))


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
    return "passes without the update, too" if verdict.old else ""
