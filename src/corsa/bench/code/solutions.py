"""What a model is asked and taught of an update, and the program in what it replies."""

from __future__ import annotations

import re
from collections.abc import Sequence

from corsa.bench.code.records import Task, Update

_TAGGED = re.compile(r"\[PYTHON\](.*?)(?:\[/PYTHON\]|$)", re.DOTALL)
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|$)", re.DOTALL)


def question(task: Task) -> str:
    """A task as a prompt. Nothing in it names the update or its tests.

    Args:
        task: the task.

    Returns:
        The prompt.
    """
    return (
        f"{task.scenario.strip()}\n\n{task.problem.strip()}\n\n"
        f"Write the Python function:\n```python\n{task.signature.strip()}\n```"
    )


def answer(solution: str) -> str:
    """A program as a reply.

    Args:
        solution: Python.

    Returns:
        It in a code block.
    """
    return f"```python\n{solution.strip()}\n```"


def documentation(update: Update) -> tuple[str, str]:
    """An update's documentation as a question and its answer.

    Args:
        update: the update.

    Returns:
        Prompt and answer.
    """
    return (
        f"What does the current documentation of {update.path} in Python say?",
        f"{update.description.strip()}\n\n```python\n{update.signature.strip()}\n```\n\n"
        f"{update.docstring.strip()}",
    )


def program_in(reply: str) -> str:
    """The program in a reply: between [PYTHON] and [/PYTHON], else the first code block, else all of it.

    Args:
        reply: what a model wrote; a block that is not closed ends with it.

    Returns:
        Python, or whatever was written instead.
    """
    for form in (_TAGGED, _FENCED):
        if found := form.search(reply):
            return found.group(1).strip("\n")
    return reply.strip("\n")


def outdated(update: Update, task: Task) -> str | None:
    """The reference as it was written before the update, where that can be read off: a renamed function.

    Args:
        update: the update.
        task: one of its tasks.

    Returns:
        A program that calls the old name, to be run before it is believed; `None` where no renaming
        makes one.
    """
    old, new = update.old_name, update.new_name
    if old == new or update.kind != "modify-function-name":
        return None
    renamed = re.sub(rf"\b{re.escape(new)}\b", old, task.reference)
    return renamed if renamed != task.reference else None


def examples_and_held_out(update: Update, examples: int) -> tuple[Sequence[Task], Sequence[Task]]:
    """The tasks of an update that are taught, and those that are asked.

    Args:
        update: with the tasks that work.
        examples: how many are taught at most; one at least is always held out.

    Returns:
        Both, in the order of the file.
    """
    count = min(examples, len(update.tasks) - 1)
    return update.tasks[:count], update.tasks[count:]
