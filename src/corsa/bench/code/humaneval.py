"""HumanEval (Chen et al. 2021): can the edited model still write ordinary programs?

CodeUpdateArena's specificity. Tasks are drawn by the hash of their names, the same for everybody, as
many as asked for; upstream samples 82 of the 164.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    "and tokens as the tasks of the arena; run in the sandbox"
)


def humaneval(finished: Finished) -> Numbers:
    """pass@k on HumanEval before and after.

    Args:
        finished: the run.

    Returns:
        humaneval_pass@k of the edited model, …_base of the base model, …_change.

    Raises:
        UsageError: if the file is not in HumanEval's layout.
    """
    file = "openai_humaneval/test-00000-of-00001.parquet"
    path = finished.data or from_hub("openai/openai_humaneval", file, "humaneval=FILE")
    assert finished.programs is not None
    options = finished.programs.options
    order = sorted(rows(path), key=lambda row: sha256_text(str(row.get("task_id"))))
    asked = order[: options.humaneval]
    try:
        prompts = [_question(row) for row in asked]
        key = [
            *finished.base.identity(),
            PROTOCOL,
            options.to_dict(),
            finished.config.seed,
            prompts,
        ]
        before = remembered("humaneval", key, lambda: _scores(finished, finished.before, asked))
        after = _scores(finished, finished.after, asked)
    except KeyError as error:
        raise UsageError(f"{path} is not in HumanEval's layout: there is no {error}") from error
    numbers: Numbers = {}
    for name, value in after.items():
        was = before[name]
        numbers |= {name: value, f"{name}_base": was}
        if value is not None and was is not None:
            numbers[f"{name}_change"] = round(value - was, 6)
    return numbers


def _scores(finished: Finished, answerer: Answerer, asked: Sequence[Mapping[str, Any]]) -> Numbers:
    assert finished.programs is not None
    pool, options = finished.programs
    finished.progress.begin("HumanEval: writing programs", len(asked) * options.samples)
    sampling = Sampling(TEMPERATURE, TOP_P, finished.config.seed)
    prompts = [_question(row) for row in asked]
    sampled = answerer.samples(
        prompts, options.samples, options.tokens, sampling, finished.progress
    )
    trials = [
        Trial((_program(row, program_in(reply.text)),))
        for row, replies in zip(asked, sampled, strict=True)
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
    front = prompt[: prompt.rindex(f"def {name}(")] if f"def {name}(" in written else prompt
    return f"{front}{written}\n\n{row['test']}\n\ncheck({name})\n"
