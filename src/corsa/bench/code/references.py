"""Before any number: which tasks work here at all.

A reference solution must pass all tests with its update and fail one without it. Where it does not
- another version of a library, a platform, a fault of the record - the task cannot tell anything,
and is left out by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from corsa.bench.code.programs import programs
from corsa.bench.code.records import Task, Update
from corsa.bench.code.testing import TEST_SECONDS, Pool, Trial, Verdict
from corsa.bench.datasets import LeftOut
from corsa.files import sha256_text
from corsa.memory import remembered
from corsa.progress import Progress


class Checked(NamedTuple):
    """Updates with the tasks that work, and the others by name."""

    updates: tuple[Update, ...]
    left_out: tuple[LeftOut, ...]


def check_references(
    updates: Sequence[Update], pool: Pool, environment: str, progress: Progress
) -> Checked:
    """Run every reference solution with its update and without it; what was found out is kept.

    Args:
        updates: all.
        pool: runs them.
        environment: names what they are run with: libraries and all.
        progress: told after each update.

    Returns:
        The updates with their working tasks, maybe none, and the other tasks by name.
    """
    progress.begin("running the reference solutions", sum(len(u.tasks) for u in updates))
    checked, left_out = [], []
    for update in updates:
        trials = [trial(update, task, task.reference) for task in update.tasks]
        key = [environment, type(pool.runner).__name__, TEST_SECONDS, sha256_text(repr(trials))]
        faults = remembered("references", key, partial(_faults, pool, trials))
        progress.advance(len(trials))
        found = list(zip(update.tasks, faults, strict=True))
        checked.append(replace(update, tasks=tuple(task for task, what in found if not what)))
        left_out += [LeftOut(task.id, what) for task, what in found if what]
    return Checked(tuple(checked), tuple(left_out))


def _faults(pool: Pool, trials: Sequence[Trial]) -> list[str]:
    return [fault(verdict) for verdict in pool.check(trials)]


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
