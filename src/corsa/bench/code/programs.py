"""From a solution to programs that test it: with the update in force, and without it.

A program is the imports, the new implementation, the statement that puts it into force, the
solution, one test, and the test's call. Without the update it is the same without that statement,
as upstream has it: the implementation is then a function that nobody installed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from corsa.bench.code.records import Task, Update

# What takes long to import, or fails to once a function of `re` is gone: loaded before anything.
HEAVY = ("numpy", "pandas", "scipy", "sympy", "torch", "pytest")


def in_force(update: Update) -> str:
    """The statement that puts an update into force.

    Args:
        update: its kind decides: a function is replaced, renamed, added or removed.

    Returns:
        Python; the implementation stands before it.
    """
    function = _defined(update)
    if update.kind.startswith("deprecate"):
        return f"del {update.path}"
    if update.kind == "modify-function-name":
        return f"del {update.path}\nsetattr({update.parent}, {update.new_name!r}, {function})"
    name = update.new_name if update.kind == "add-function" else update.old_name
    return f"setattr({update.parent}, {name!r}, {function})"


def _defined(update: Update) -> str:
    """The function of the implementation that is the new one: by name, else the last."""
    try:
        body = ast.parse(update.implementation).body
    except SyntaxError:
        return update.new_name
    names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for name in (update.new_name, update.old_name):
        if name in names:
            return name
    return names[-1] if names else update.new_name


def programs(update: Update, task: Task, solution: str, *, updated: bool) -> list[str]:
    """One program for every test of a task.

    Args:
        update: the task's.
        task: what was to be written.
        solution: what was written.
        updated: whether the update is in force.

    Returns:
        Programs; each passes if it comes to its end.
    """
    imports = "\n".join(dict.fromkeys((*update.imports, *task.imports)))
    front = [imports, update.implementation, *([in_force(update)] if updated else []), solution]
    return ["\n\n".join((*front, test, f"{name_of(test)}()")) + "\n" for test in task.tests]


def name_of(test: str) -> str:
    """The name of a test function.

    Args:
        test: its text.

    Returns:
        The name after the last top-level `def`; helpers may stand before it.
    """
    lines = [line for line in test.split("\n") if line.startswith("def ")]
    return lines[-1].removeprefix("def ").partition("(")[0].strip() if lines else "test"


def heavy_imports(texts: Iterable[str]) -> list[str]:
    """Which of the heavy libraries some programs import.

    Args:
        texts: Python; what cannot be parsed imports nothing.

    Returns:
        Names of modules.
    """
    found = {name for text in texts for name in _imports(text)}
    return [name for name in HEAVY if name in found]


def _imports(text: str) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
