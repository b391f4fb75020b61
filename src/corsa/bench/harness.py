"""General ability by everybody's engine: lm-evaluation-harness on the edited model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corsa.bench.finished import Finished, Numbers
from corsa.errors import UsageError
from corsa.models import BaseModel
from corsa.optional import optional
from corsa.sources import first_line

TASKS = ("arc_easy", "hellaswag", "winogrande")
LIMIT = 100
PROTOCOL = f"lm-evaluation-harness, the first {LIMIT} items of each task, its own prompts and shots"


def harness(finished: Finished) -> Numbers:
    """Scores of lm-evaluation-harness (Gao et al.; extra `lm-eval`), with the base model's beside them.

    It reads `finished.data`: names of tasks, or paths of task files, one per line; without it `TASKS`.
    Nothing is merged or written: the adapter acts while the harness asks.

    Args:
        finished: the run.

    Returns:
        `task/metric` as the harness calls them and `task/metric_base`, standard errors left out;
        nothing for a method that changes no weights.

    Raises:
        UsageError: if the file of names cannot be read, or names none.
    """
    if finished.adapter is None:
        return {}
    tasks, base = tasks_of(finished.data), finished.base
    # Asked anew by every run: what a task asks is the harness's to change, and no key would tell.
    before, after = _scores(base, None, tasks), _scores(base, finished.adapter, tasks)
    return after | {f"{name}_base": value for name, value in before.items()}


def _scores(base: BaseModel, adapter: str | None, tasks: Sequence[str]) -> Numbers:
    evaluate = optional("lm_eval", "lm-eval").simple_evaluate
    wrapper = optional("lm_eval.models.huggingface", "lm-eval").HFLM
    with base.using(adapter):
        model = wrapper(pretrained=base.hf, tokenizer=base.tokenizer)
        results = evaluate(model=model, tasks=[*tasks], limit=LIMIT, bootstrap_iters=0)["results"]
    return {
        f"{task}/{metric.removesuffix(',none')}": value
        for task, values in results.items()
        for metric, value in values.items()
        if isinstance(value, float) and "stderr" not in metric
    }


def ready(data: Path | None) -> None:
    """Say what is missing before anything is trained.

    Args:
        data: as `tasks_of` takes it.

    Raises:
        UsageError: if the tasks cannot be read, or the harness is not installed.
    """
    tasks_of(data)
    optional("lm_eval", "lm-eval")


def tasks_of(data: Path | None) -> list[str]:
    """The tasks that are asked.

    Args:
        data: the file given with `lm-eval=FILE`; without it `TASKS`.

    Returns:
        Names of tasks, or paths of task files.

    Raises:
        UsageError: if the file cannot be read, or names none.
    """
    if data is None:
        return list(TASKS)
    try:
        tasks = data.read_text("utf-8").split()
    except (OSError, ValueError) as error:
        raise UsageError(f"{data} cannot be read: {first_line(error)}") from error
    if not tasks:
        raise UsageError(f"{data} names no task: give names of lm-evaluation-harness, one per line")
    return tasks
