"""A model is asked for programs, several for each task, and they are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from corsa.answerers import Answerer, Sampling
from corsa.bench.code.options import TEMPERATURE, TOP_P, Programs
from corsa.bench.code.passing import task_scores
from corsa.bench.code.records import Task, Update
from corsa.bench.code.references import trial
from corsa.bench.code.solutions import program_in, question
from corsa.bench.code.testing import Verdict
from corsa.progress import Progress


class Asked(NamedTuple):
    """A held-out task, and the round in which its update was taught."""

    round: int
    update: Update
    task: Task


def ask(
    answerer: Answerer, asked: Sequence[Asked], programs: Programs, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Sample programs for tasks and run them.

    Args:
        answerer: who writes them.
        asked: the tasks.
        programs: where they are run, and how many are asked for.
        seed: of the samples.
        progress: told after each batch of replies and each program.

    Returns:
        Plain data, one for each task: round, update, task, prompt, replies, verdicts and scores.
    """
    count, prompts = programs.options.samples, [question(each.task) for each in asked]
    progress.begin("writing programs", len(asked) * count)
    sampling = Sampling(TEMPERATURE, TOP_P, seed)
    sampled = answerer.samples(prompts, count, programs.options.tokens, sampling, progress)
    progress.begin("running programs", len(asked) * count)
    trials = [
        trial(each.update, each.task, program_in(reply.text))
        for each, replies in zip(asked, sampled, strict=True)
        for reply in replies
    ]
    verdicts = programs.pool.check(trials, progress)
    return [
        {
            "round": each.round,
            "update": each.update.id,
            "task": each.task.id,
            "prompt": prompts[place],
            "replies": [reply.text for reply in sampled[place]],
            "verdicts": [_record(v) for v in verdicts[place * count : (place + 1) * count]],
            "scores": task_scores(verdicts[place * count : (place + 1) * count]),
        }
        for place, each in enumerate(asked)
    ]


def _record(verdict: Verdict) -> dict[str, Any]:
    return {
        "passed": sum(verdict.new),
        "tests": len(verdict.new),
        "passes_without": verdict.old,
        "reasons": list(verdict.reasons),
    }
