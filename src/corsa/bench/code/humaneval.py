"""HumanEval (Chen et al. 2021): can the edited model still write ordinary programs?

CodeUpdateArena's specificity. Tasks are drawn by the hash of their names, the same for everybody, as
many as asked for; upstream samples 82 of the 164.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corsa.answerers import Answerer, Sampling
from corsa.bench.code.options import TEMPERATURE, TOP_P
from corsa.bench.code.passing import KS, averages, pass_at_k
from corsa.bench.code.solutions import program_in
from corsa.bench.code.testing import Trial
from corsa.bench.finished import Finished, Numbers
from corsa.bench.upstream import from_hub, rows
from corsa.errors import UsageError
from corsa.files import sha256_text
from corsa.memory import remembered

PROTOCOL = (
    f"tasks by the hash of their names; chat template, T {TEMPERATURE}, top-p {TOP_P}, as many samples "
    "and tokens as the tasks of the arena"
)

_FIELDS = ("task_id", "prompt", "entry_point", "test")


def humaneval(finished: Finished) -> Numbers:
    """pass@k on HumanEval before and after.

    Args:
        finished: the run.

    Returns:
        humaneval_pass@k of the edited model, …_base of the base model, …_change.

    Raises:
        UsageError: if the file is not in HumanEval's layout.
    """
    assert finished.programs is not None
    options = finished.programs.options
    asked = tasks_of(finished.data)[: options.humaneval]
    prompts = [_question(row) for row in asked]
    key = [*finished.base.identity(), PROTOCOL, options.to_dict(), finished.config.seed, prompts]
    # Replies are remembered and not scores: what passes depends on tests, libraries and limits, too, and
    # a program that was killed on a busy machine may pass on another day.
    written = remembered("humaneval", key, lambda: _written(finished, finished.before, prompts))
    before = _scores(finished, written, asked)
    after = _scores(finished, _written(finished, finished.after, prompts), asked)
    numbers: Numbers = {}
    for name, value in after.items():
        was = before[name]
        numbers |= {name: value, f"{name}_base": was}
        if value is not None and was is not None:
            numbers[f"{name}_change"] = round(value - was, 6)
    return numbers


def tasks_of(data: Path | None) -> list[Mapping[str, Any]]:
    """The tasks, in the order in which they are asked.

    Args:
        data: the file given with `humaneval=FILE`; without it HumanEval from the hub.

    Returns:
        All of them.

    Raises:
        UsageError: if the file is not in HumanEval's layout, or empty.
        ModelError: if the hub does not give it.
    """
    file = "openai_humaneval/test-00000-of-00001.parquet"
    path = data or from_hub("openai/openai_humaneval", file, "humaneval=FILE")
    tasks = list(rows(path))
    for task in tasks:
        lacking = [name for name in _FIELDS if not isinstance(task.get(name), str)]
        if lacking:
            what = f"there is no {', '.join(lacking)}"
            raise UsageError(f"{path} is not in HumanEval's layout: {what}")
    if not tasks:
        raise UsageError(f"{path} holds no tasks: give another file with humaneval=FILE")
    return sorted(tasks, key=lambda task: sha256_text(task["task_id"]))


def _written(finished: Finished, answerer: Answerer, prompts: Sequence[str]) -> list[list[str]]:
    """The replies to every prompt."""
    assert finished.programs is not None
    options, progress = finished.programs.options, finished.progress
    progress.begin("HumanEval: writing programs", len(prompts) * options.samples)
    sampling = Sampling(TEMPERATURE, TOP_P, finished.config.seed)
    sampled = answerer.samples(prompts, options.samples, options.tokens, sampling, progress)
    return [[reply.text for reply in replies] for replies in sampled]


def _scores(
    finished: Finished, written: Sequence[Sequence[str]], asked: Sequence[Mapping[str, Any]]
) -> Numbers:
    assert finished.programs is not None
    pool, options = finished.programs
    trials = [
        Trial((_program(row, program_in(reply)),))
        for row, replies in zip(asked, written, strict=True)
        for reply in replies
    ]
    finished.progress.begin("HumanEval: running programs", len(trials))
    verdicts = pool.check(trials, finished.progress)
    n = options.samples
    right = [sum(v.passes for v in verdicts[i : i + n]) for i in range(0, len(verdicts), n)]
    return averages(
        {f"humaneval_pass@{k}": pass_at_k(n, c, k) for k in KS if k <= n} for c in right
    )


def _question(row: Mapping[str, Any]) -> str:
    return f"Complete this Python function:\n```python\n{row['prompt'].strip()}\n```"


def _program(row: Mapping[str, Any], written: str) -> str:
    """The function whole, or its body behind the prompt; then the tests."""
    name, prompt = row["entry_point"], row["prompt"]
    if f"def {name}(" in written:
        front = prompt[: prompt.rindex(f"def {name}(")]
    else:
        # Of a body outside a code block the first line's indentation was stripped with the reply.
        front = f"{prompt}    " if _is_python(f"{prompt}    {written}") else prompt
    return f"{front}{written}\n\n{row['test']}\n\ncheck({name})\n"


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
