"""CodeUpdateArena in the benchmark: what a round teaches of an update, and what is asked after it.

A draw is of updates. Of each, some tasks are taught with their solutions (or its documentation is, or
both), and others are held out: those are asked after every round, of all rounds so far, and of the base
model once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corsa.answerers import Answerer
from corsa.bench.code.asking import Asked, ask
from corsa.bench.code.environments import ARENA, arena_environment
from corsa.bench.code.options import TEMPERATURE, TOP_P, CodeOptions, Programs, open_pool, where
from corsa.bench.code.passing import KS, averages
from corsa.bench.code.records import Task, Update, read_arena
from corsa.bench.code.references import check_references, trial
from corsa.bench.code.solutions import (
    answer,
    documentation,
    examples_and_held_out,
    outdated,
    question,
)
from corsa.bench.code.testing import TEST_SECONDS, WALL_SECONDS, Cost
from corsa.bench.datasets import LeftOut, Loaded
from corsa.bench.draws import shuffled
from corsa.bench.upstream import rows
from corsa.edits import Edit
from corsa.errors import UsageError
from corsa.files import seal, sha256_file, unseal, write_atomically
from corsa.metrics import Number, mean, retention
from corsa.progress import Progress
from corsa.sources import cache_folder
from corsa.store import Store


class CodeDomain:
    """The updates of a file that work here, as edits and as tasks.

    Args:
        data: the file.
        first: place of the first record that may be used.
        last: place behind the last one.
        options: how programs are asked for.
        unsafe: run them without a sandbox.
        progress: told what goes on.

    Raises:
        UsageError: if the file cannot be read, or none of its tasks works.
        SandboxError: if programs cannot be run.
    """

    def __init__(
        self,
        data: Path,
        first: int,
        last: int | None,
        options: CodeOptions,
        progress: Progress,
        *,
        unsafe: bool = False,
    ) -> None:
        arena = read_arena(list(rows(data))[first:last])
        if not arena.updates:  # before anything is installed for it
            raise _unusable(data, arena.left_out)
        environment = arena_environment(cache_folder(), progress)
        self.unsafe = unsafe
        self.programs = Programs(open_pool(environment, unsafe=unsafe), options)
        checked, faulty = check_references(arena.updates, self.programs.pool, progress)
        # One task at least is taught and one held out.
        self.updates = {update.id: update for update in checked if len(update.tasks) > 1}
        few = [
            LeftOut(update.id, "has fewer than two tasks that work")
            for update in arena.updates
            if update.id not in self.updates
        ]
        if not self.updates:
            raise _unusable(data, [*arena.left_out, *faulty, *few])
        source = {
            "name": "codeupdatearena",
            "file": data.name,
            "sha256": sha256_file(data),
            "from": first,
            "to": last,
            "records": len(arena.updates) + len(arena.left_out),
            "usable": len(self.updates),
            "tasks": sum(len(update.tasks) for update in arena.updates),
            "tasks_usable": sum(len(update.tasks) for update in self.updates.values()),
        }
        heads = tuple(self.head(update) for update in self.updates.values())
        self.loaded = Loaded(heads, (*arena.left_out, *faulty, *few), source, {})

    def protocol(self, *, reset: bool) -> str:
        """How programs were asked for and run, in a line to stand beside the numbers.

        Args:
            reset: whether a run teaches one update alone.

        Returns:
            The line.
        """
        o = self.programs.options
        return (
            f"{o.samples} programs a task, T {TEMPERATURE}, top-p {TOP_P}, {o.tokens} tokens; "
            f"{o.examples} tasks taught, {o.held_out} held out of each update"
            f"{', each in a run of its own (--reset)' if reset else ''}; run "
            f"{where(unsafe=self.unsafe)}, {TEST_SECONDS} s of a processor and {WALL_SECONDS} s in all "
            f"a test; {', '.join(ARENA)} and the torch of this Python; environment "
            f"{self.programs.pool.environment}"
        )

    # --- What is taught ---------------------------------------------------------------------------

    def head(self, update: Update) -> Edit:
        """An update as one edit: what draws are made of.

        Args:
            update: the update.

        Returns:
            Its first example under the update's name.
        """
        task = update.tasks[0]
        return Edit(question(task), answer(task.reference), id=update.id)

    def heads(self, seed: int, *, reset: bool) -> list[Edit]:
        """What a seed may draw: one update of each function, since two contradict each other.

        Args:
            seed: decides which.
            reset: the one update of that number, so that the seeds go through all of them.

        Returns:
            Edits.

        Raises:
            UsageError: if there is no update of that number.
        """
        if reset:
            order = shuffled(self.loaded.edits, 0)
            if not 0 <= seed < len(order):
                raise UsageError(
                    f"--reset: seed {seed} is the number of no update: {len(order)} work here, give "
                    f"--seeds from 0 to {len(order) - 1}"
                )
            return [order[seed]]
        order = shuffled(self.loaded.edits, seed)
        first = {self.updates[edit.id].path: edit for edit in reversed(order)}
        return [edit for edit in order if first[self.updates[edit.id].path] is edit]

    def lessons(self, head: Mapping[str, Any], chosen: Mapping[str, str]) -> Iterator[Edit]:
        """The edits that teach an update.

        y⁻ of a task is what the model writes today (`today`), or, where the update renamed a function,
        the reference with the old name (`old`), if that passes without the update and not with it.

        Args:
            head: the record of one drawn.
            chosen: a contender's `teach` and `rejected`.

        Yields:
            Examples, documentation or both.
        """
        update = self.updates[head["id"]]
        said = {"update": update.id}
        teach, rejected = chosen.get("teach", "examples"), chosen.get("rejected", "today")
        taught, _ = examples_and_held_out(update, self.programs.options.examples)
        if teach in ("docs", "both"):
            asked, told = documentation(update)
            yield Edit(asked, told, id=f"{update.id}:docs", metadata=said)
        if teach in ("examples", "both"):
            for task in taught:
                old = self._old(update, task) if rejected == "old" else None
                target = answer(task.reference)
                yield Edit(question(task), target, id=task.id, target_old=old, metadata=said)

    def _old(self, update: Update, task: Task) -> str | None:
        program = outdated(update, task)
        if program is None:
            return None
        (verdict,) = self.programs.pool.check([trial(update, task, program)])
        return answer(program) if verdict.old and not verdict.passes else None

    def texts(self, head: Edit) -> list[Edit]:
        """Everything of an update that a model must be able to read, as edits.

        Args:
            head: of the update.

        Returns:
            Lessons of all kinds, and the held-out tasks.
        """
        update = self.updates[head.id]
        held = examples_and_held_out(update, self.programs.options.examples)[1]
        asked = [Edit(question(t), answer(t.reference), id=t.id) for t in held]
        return [*self.lessons({"id": head.id}, {"teach": "both"}), *asked]

    # --- What is asked ----------------------------------------------------------------------------

    def measure(
        self, store: Store, settings: Mapping[str, Any], folder: Path, name: str, progress: Progress
    ) -> Measured:
        """Ask the held-out tasks after every round, and of the base model.

        Args:
            store: with all rounds of the run.
            settings: of the run; its seed is that of the samples.
            folder: where replies and verdicts are kept, so that an interrupted run goes on.
            name: of the run, in file names.
            progress: told what goes on.

        Returns:
            Numbers, the matrix and every reply.
        """
        before = replace(self.programs.pool.cost)
        line, seed = store.ledger.lineage(store.head), int(settings["seed"])
        taught = {
            made.id: list(dict.fromkeys(p.edit.metadata["update"] for p in made.edits()))
            for made in line
        }
        after = {}
        for made in line:
            asked = [each for k in taught if k <= made.id for each in self._asked(k, taught[k])]
            with store.opened(progress=progress, round=made.id, **settings) as (_, _, answerer):
                path = folder / f"{name}-round{made.id}.json"
                after[made.id] = self._kept(path, answerer, asked, seed, progress)
        with store.opened(progress=progress, round=0, **settings) as (_, base_answerer, _):
            path = folder / f"base-seed{seed}.json"
            base = self._kept(path, base_answerer, asked, seed, progress)
        cost = self.programs.pool.cost.since(before)
        return Measured(after, base, self.programs.options.samples, cost)

    def _asked(self, round: int, updates: Sequence[str]) -> Iterator[Asked]:
        for update in map(self.updates.__getitem__, updates):
            held = examples_and_held_out(update, self.programs.options.examples)[1]
            yield from (Asked(round, update, t) for t in held[: self.programs.options.held_out])

    def _kept(
        self,
        path: Path,
        answerer: Answerer,
        asked: Sequence[Asked],
        seed: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:
        if path.exists():
            found: list[dict[str, Any]] = unseal(path)["tasks"]
            return found
        tasks = ask(answerer, asked, self.programs, seed, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, seal({"tasks": tasks}))
        return tasks


def _unusable(data: Path, left_out: Sequence[LeftOut]) -> UsageError:
    why = (
        f": {left_out[0].record}: {left_out[0].why}"
        if left_out
        else " in what --from and --to leave"
    )
    return UsageError(f"{data} has no usable update{why}")


class Measured:
    """The tasks of a run, summed up.

    Args:
        after: for every round its tasks.
        base: the base model's.
        samples: programs for each task.
        cost: of running those that no earlier run had to run.
    """

    def __init__(
        self,
        after: Mapping[int, list[dict[str, Any]]],
        base: list[dict[str, Any]],
        samples: int,
        cost: Cost,
    ) -> None:
        self.after, self.base = after, base
        self._cost = cost
        self._k = max(k for k in KS if k <= samples)

    def matrix(self) -> list[list[Number]]:
        """UPass@k of round-k tasks under the model after round r, for the largest k.

        Returns:
            Row r has r columns.
        """
        name = f"upass@{self._k}"
        return [
            [
                mean(t["scores"][name] for t in tasks if t["round"] == column)
                for column in self.after
                if column <= row
            ]
            for row, tasks in self.after.items()
        ]

    def numbers(self) -> dict[str, Number]:
        """Over all tasks after the last round; of the base model with `_base`.

        Returns:
            Numbers by name.
        """
        last = self.after[max(self.after)]
        matrix, name = self.matrix(), f"upass@{self._k}"
        kept = retention(matrix)
        found: dict[str, Number] = {
            **averages(task["scores"] for task in last),
            **{f"{k}_base": v for k, v in averages(t["scores"] for t in self.base).items()},
            f"{name}.newest": matrix[-1][-1],
            f"{name}.forgetting": kept["forgetting"],
            f"{name}.bwt": kept["bwt"],
            "tasks": len(last),
        }
        if self._cost.solutions:
            found["programs_per_second"] = round(self._cost.per_second, 3)
            found["programs_overhead"] = round(self._cost.overhead, 3)
        return found

    def replies(self, method: str, seed: int) -> Iterator[dict[str, Any]]:
        """Every program of every round, as lines of `generations.jsonl`.

        Args:
            method: the method's label.
            seed: the run's.

        Yields:
            Plain data, with the verdict.
        """
        for round, tasks in ((0, self.base), *self.after.items()):
            for task in tasks:
                for reply, verdict in zip(task["replies"], task["verdicts"], strict=True):
                    yield {
                        "seed": seed,
                        "method": method,
                        "after_round": round,
                        "edit_round": task["round"],
                        "edit_id": task["task"],
                        "kind": "task",
                        "prompt": task["prompt"],
                        "reply": reply,
                        "verdict": verdict,
                    }
