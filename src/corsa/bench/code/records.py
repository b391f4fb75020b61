"""CodeUpdateArena's records (Liu et al. 2024, arXiv 2407.06249): an update of a library and its tasks.

Two layouts are read: the first release, one update a line with its tasks in `prog_syn_examples`, and the
later one, one task a line, with texts joined where the first has lists.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from corsa.bench.datasets import LeftOut


@dataclass(frozen=True)
class Task:
    """A program to be written, and the tests it must pass.

    Attributes:
        id: unique in the file.
        scenario: where the problem comes from.
        problem: what is to be written.
        signature: of the function that tests call.
        tests: functions without arguments, each of which is one test.
        imports: statements in front of everything.
        reference: a solution that uses the update.
    """

    id: str
    scenario: str
    problem: str
    signature: str
    tests: tuple[str, ...]
    imports: tuple[str, ...]
    reference: str


@dataclass(frozen=True)
class Update:
    """One change of one function of a library.

    Attributes:
        id: unique in the file.
        path: the function as it was called before, such as `numpy.sum`.
        kind: such as `modify-function-name`.
        description: the change in a sentence.
        docstring: the new documentation.
        signature: the new signature.
        imports: statements in front of the implementation.
        implementation: Python that defines the new function.
        tasks: programs that need it.
    """

    id: str
    path: str
    kind: str
    description: str
    docstring: str
    signature: str
    imports: tuple[str, ...]
    implementation: str
    tasks: tuple[Task, ...]

    @property
    def parent(self) -> str:
        """The module or class that the function is looked up in."""
        return self.path.rpartition(".")[0]

    @property
    def old_name(self) -> str:
        """The function's name there before the update."""
        return self.path.rpartition(".")[2]

    @property
    def new_name(self) -> str:
        """The function's name there after it, as the new signature says."""
        called = self.signature.removeprefix("def ").partition("(")[0].strip()
        return called.rpartition(".")[2] or self.old_name


class Arena(NamedTuple):
    """What of a file can be read."""

    updates: tuple[Update, ...]
    left_out: tuple[LeftOut, ...]


def read_arena(rows: Iterable[Mapping[str, Any]]) -> Arena:
    """The updates of a file, each with its tasks.

    Args:
        rows: of either layout.

    Returns:
        Updates in the order of the file, and by name what cannot be read.
    """
    updates: dict[str, dict[str, Any]] = {}
    tasks: dict[str, list[Task]] = {}
    left_out: list[LeftOut] = []
    for place, row in enumerate(rows):
        try:
            update = row["update"]
            name = str(update["update_id"])
            examples = row.get("prog_syn_examples", [row])
            read = [_task(example) for example in examples]
            updates.setdefault(name, update)
            tasks.setdefault(name, []).extend(read)
        except (KeyError, TypeError, AttributeError, SyntaxError) as error:
            left_out.append(
                LeftOut(f"record {place}", f"is not in the layout of the arena ({error!r})")
            )
    found = []
    for name, update in updates.items():
        try:
            found.append(_update(name, update, tasks[name]))
        except (KeyError, TypeError, AttributeError) as error:
            left_out.append(LeftOut(name, f"is not in the layout of the arena ({error!r})"))
    return Arena(tuple(found), tuple(left_out))


def _update(name: str, record: Mapping[str, Any], tasks: Sequence[Task]) -> Update:
    return Update(
        id=name,
        path=record.get("function_path") or record["api_path"],
        kind=record["update_type"],
        description=record["description"],
        docstring=record["docstring"],
        signature=record["signature"],
        imports=_lines(record["imports"]),
        implementation=record["implementation"],
        tasks=tuple(tasks),
    )


def _task(record: Mapping[str, Any]) -> Task:
    tests = record["unit_tests"]
    return Task(
        id=record["prog_syn_id"],
        scenario=record["scenario"],
        problem=record["problem"],
        signature=record["solution_signature"],
        tests=tuple(_functions(tests) if isinstance(tests, str) else tests),
        imports=_lines(record["imports"]),
        reference=record["ref_solution"],
    )


def _lines(imports: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(imports.split("\n") if isinstance(imports, str) else imports)


def _functions(text: str) -> list[str]:
    """The test functions of one text; blank lines inside them do not part them."""
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return [ast.get_source_segment(text, node) or "" for node in nodes]
