"""Solutions run: references as they should, and wrong ones come out as they were made."""

import json
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import arena
from corsa.bench.code.passing import averages, task_scores
from corsa.bench.code.programs import heavy_imports, in_force, name_of, programs
from corsa.bench.code.records import read_arena
from corsa.bench.code.references import check_references, fault, trial
from corsa.bench.code.solutions import outdated
from corsa.bench.code.testing import Cost, Pool, Trial, Verdict, _verdict
from corsa.progress import Silent
from corsa.sandbox import Ended, Sandbox, UnsafeRunner
from corsa.sandbox.environment import make_environment

UPDATES = {update.id: update for update in read_arena(arena.UPDATES).updates}


@pytest.fixture(scope="module")
def environment():
    folder = Path(tempfile.mkdtemp(prefix="corsa-code-"))
    folder.chmod(0o755)
    yield make_environment(folder)
    shutil.rmtree(folder)


@pytest.fixture(
    params=[pytest.param("sandbox", marks=pytest.mark.sandbox), "unsafe"], scope="module"
)
def pool(request, environment):
    """Only programs of this file are run without a sandbox."""
    return Pool({"sandbox": Sandbox, "unsafe": UnsafeRunner}[request.param](environment), workers=2)


def verdicts(pool, update, place, *solutions):
    task = UPDATES[update].tasks[place]
    return pool.check([trial(UPDATES[update], task, solution) for solution in solutions])


# --- Records --------------------------------------------------------------------------------------


def test_both_layouts_say_the_same():
    later = read_arena(arena.one_a_line(arena.UPDATES)).updates
    for one, other in zip(UPDATES.values(), later, strict=True):
        assert [task.reference for task in one.tasks] == [task.reference for task in other.tasks]
        for task, same in zip(one.tasks, other.tasks, strict=True):
            assert [text.strip().split("\n")[:2] for text in task.tests] == [
                text.strip().split("\n")[:2] for text in same.tests
            ]
            assert task.imports == same.imports


def test_what_is_no_record_is_named():
    found = read_arena([{"update": {"update_id": "x"}}, *arena.UPDATES[:1]])
    assert [update.id for update in found.updates] == ["renamed"]
    (entry,) = found.left_out
    assert entry.record == "record 0"
    assert "prog_syn_id" in entry.why or "unit_tests" in entry.why


# --- Programs -------------------------------------------------------------------------------------


def test_a_statement_for_every_kind_of_update():
    assert in_force(UPDATES["renamed"]) == "del math.sqrt\nsetattr(math, 'root', root)"
    assert in_force(UPDATES["argument"]) == "setattr(math, 'floor', floor)"
    assert in_force(UPDATES["added"]) == "setattr(re, 'sub_all', sub_all)"
    assert in_force(UPDATES["removed"]) == "del math.tau"
    assert in_force(UPDATES["method"]) == (
        "setattr(fractions.Fraction, 'limit_denominator', limit_denominator)"
    )


def test_with_and_without_differ_by_that_statement_alone():
    update = UPDATES["argument"]
    task = update.tasks[0]
    new, old = (programs(update, task, task.reference, updated=on) for on in (True, False))
    assert len(new) == len(old) == 2
    assert new[0].replace(in_force(update) + "\n\n", "") == old[0]
    assert new[0].startswith("import math\nold_floor = math.floor\n")
    assert new[0].endswith("test_down()\n")


def test_the_function_that_is_called_is_the_last_one():
    assert (
        name_of("def helper(a):\n    pass\n\ndef test_it():\n    def inner(): pass\n") == "test_it"
    )


def test_heavy_libraries_are_found_by_what_is_imported():
    texts = ["import numpy as np", "from torch.nn import Linear", "import not_numpy", "def broken("]
    assert heavy_imports(texts) == ["numpy", "torch"]


# --- Running --------------------------------------------------------------------------------------


def test_references_pass_with_their_update_and_fail_without_it(pool):
    checked = check_references(list(UPDATES.values()), pool, Silent())
    solutions = pool.cost.solutions
    assert check_references(list(UPDATES.values()), pool, Silent()) == checked
    assert pool.cost.solutions == solutions
    assert [update.id for update in checked.updates if update.tasks] == [
        "renamed",
        "argument",
        "added",
        "removed",
        "method",
    ]
    assert sum(len(update.tasks) for update in checked.updates) == 9
    assert {entry.record: entry.why for entry in checked.left_out} == {
        "never_fails": "passes without the update, too",
        "never_passes": "1 of 2 tests fail with the update: AssertionError:  (line 17)",
    }


class Scripted:
    """Ends as it is told, one after the other; then all passes with the update and nothing without."""

    def __init__(self, *endings):
        self.endings, self.runs = list(endings), 0

    def run(self, program, given, limits, stop):
        self.runs += 1
        if self.endings:
            return self.endings.pop(0)
        groups = json.loads(given)["groups"]
        lines = [["ready", "passed", 0], *(["new", "passed", 0.25] for _ in groups["new"])]
        lines += [["old", "AssertionError: ", 0.25]] if groups["old"] else []
        return Ended("exit", 0, written(*lines), b"", 1.0)


def written(*lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


READY, FAILED = ["ready", "passed", 0], ["new", "AssertionError: ", 1]


@pytest.mark.parametrize(
    ("ending", "kept"),
    [
        (Ended("time", 137, b"", b"", 300.0), False),
        (Ended("memory", 137, written(READY), b"", 1.0), False),
        (Ended("exit", 1, b"", b"bwrap: no more processes", 0.1), False),
        (Ended("exit", 137, written(READY), b"", 0.1), False),
        (Ended("exit", 0, written(READY, ["new", "timed out", 60]), b"", 60.0), False),
        (
            Ended(
                "exit", 0, written(READY, FAILED, ["new", "ended early (status 9)", 0]), b"", 1.0
            ),
            False,
        ),
        (Ended("exit", 0, written(READY, FAILED, FAILED, ["old", "passed", 1]), b"", 1.0), True),
    ],
)
def test_only_what_came_to_its_end_is_remembered_of_references(ending, kept, monkeypatch, tmp_path):
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path))
    update = replace(UPDATES["renamed"], tasks=UPDATES["renamed"].tasks[:1])
    (first,) = check_references([update], Pool(Scripted(ending)), Silent()).updates
    assert not first.tasks
    again = Scripted()
    (second,) = check_references([update], Pool(again), Silent()).updates
    assert (len(second.tasks), again.runs) == ((0, 0) if kept else (1, 1))
    third = Scripted(ending)
    check_references([update], Pool(third), Silent())
    assert third.runs == 0


def test_verdicts_of_other_limits_harness_or_sandbox_are_not_taken_over(monkeypatch, tmp_path):
    from corsa.bench.code import testing
    from corsa.sandbox import Limits

    monkeypatch.setenv("CORSA_CACHE", str(tmp_path))
    other = tmp_path / "harness.py"
    other.write_text("another", "utf-8")
    changes = [("_LIMITS", Limits(processor=2)), ("WALL_SECONDS", 1), ("_HARNESS", other)]
    changes.append(("_SANDBOX", tmp_path))
    for name, value in (None, None), *changes:
        if name:
            monkeypatch.setattr(testing, name, value)
        for expected in (1, 0):
            runner = Scripted()
            update = replace(UPDATES["renamed"], tasks=UPDATES["renamed"].tasks[:1])
            check_references([update], Pool(runner), Silent())
            assert runner.runs == expected, name


def test_the_references_of_all_updates_run_side_by_side(monkeypatch, tmp_path):
    """One task each: a pool that is emptied after every update would have one of them alone."""
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path))
    together = threading.Barrier(2)

    class Meeting(Scripted):
        def run(self, *words):
            together.wait(30)
            return super().run(*words)

    updates = [replace(UPDATES[id], tasks=UPDATES[id].tasks[:1]) for id in ("renamed", "argument")]
    checked = check_references(updates, Pool(Meeting(), workers=2), Silent())
    assert [len(update.tasks) for update in checked.updates] == [1, 1]


WRONG = "def root_0(x):\n    return 7\n"
HALF = "def root_0(x):\n    return 2\n"
OLD = "import math\ndef root_0(x):\n    return math.sqrt(x)\n"
BOTH = "def root_0(x):\n    return x ** 0.5\n"


def test_solutions_made_wrong_come_out_as_they_were_made(pool):
    good = UPDATES["renamed"].tasks[0].reference
    found = verdicts(pool, "renamed", 0, good, OLD, BOTH, HALF, WRONG)
    assert [(v.new, v.old, v.by_the_update) for v in found] == [
        ((True, True), False, True),
        ((False, False), True, False),
        ((True, True), True, False),
        ((True, False), False, False),
        ((False, False), False, False),
    ]
    assert found[1].reasons[0].startswith("AttributeError: module 'math' has no attribute 'sqrt'")


def test_the_scores_are_those_that_were_constructed(pool):
    """Five samples: one by the update, one old, one that is right either way, one half right, one wrong.

    c = 1 of 5 for UPass, 2 of 5 with the update, 2 of 5 without: UPass@2 = 1 − C(4,2)/C(5,2) = 0.4, and
    pass@2 = 1 − C(3,2)/C(5,2) = 0.7. Tests passed with the update: 1, 0, 1, ½, 0: accuracy 0.5. Neither
    only with nor only without: three of five.
    """
    good = UPDATES["renamed"].tasks[0].reference
    scores = task_scores(verdicts(pool, "renamed", 0, good, OLD, BOTH, HALF, WRONG))
    assert scores == pytest.approx(
        {
            "upass@1": 0.2,
            "pass@1_new": 0.4,
            "pass@1_old": 0.4,
            "upass@2": 0.4,
            "pass@2_new": 0.7,
            "pass@2_old": 0.7,
            "upass@5": 1.0,
            "pass@5_new": 1.0,
            "pass@5_old": 1.0,
            "accuracy": 0.5,
            "unsolved": 0.6,
        }
    )
    perfect = task_scores(verdicts(pool, "renamed", 0, *[good] * 5))
    assert perfect["upass@1"] == perfect["upass@5"] == perfect["accuracy"] == 1
    nothing = task_scores(verdicts(pool, "renamed", 0, *[WRONG] * 5))
    assert nothing["upass@5"] == 0
    assert averages([perfect, nothing])["upass@1"] == 0.5


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "ended early"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended early"),
        ("def root_0(x:", "SyntaxError: '(' was never closed (solution, line 12)"),
        ("def root_0(x):\n    return root_0(x)", "RecursionError"),
        ("x = '\0'", "SyntaxError"),
        ("", "NameError"),
        ("for k in range(9**5): print('passed')\nraise OSError('no')", "OSError: no"),
    ],
)
def test_leaving_early_is_not_passing(pool, solution, reason):
    (found,) = verdicts(pool, "renamed", 0, solution)
    assert not any(found.new)
    assert any(reason in said for said in found.reasons), found


@pytest.mark.sandbox
def test_who_kills_the_harness_has_failed_and_harms_nobody(environment):
    kill = "import os\nos.kill(os.getppid(), 9)"
    good = UPDATES["renamed"].tasks[0].reference
    bad, fine = verdicts(Pool(Sandbox(environment), workers=2), "renamed", 0, kill, good)
    assert not any(bad.new)
    assert fine.by_the_update


@pytest.mark.sandbox
def test_the_harness_cannot_be_written_to(environment):
    """A program cannot open the stream of results, nor trace the process that writes to it."""
    forge = """
import ctypes, os
done = []
try:
    os.write(os.open(f"/proc/{os.getppid()}/fd/1", os.O_WRONLY), b'["new", "passed", 0]')
    done.append("written")
except OSError:
    pass
if ctypes.CDLL(None).ptrace(16, os.getppid(), None, None) == 0:
    done.append("traced")
assert not done, done
raise KeyError("nothing done")
"""
    (found,) = verdicts(Pool(Sandbox(environment)), "renamed", 0, forge)
    assert found.reasons == ("KeyError: 'nothing done' (line 23)",)


def test_one_that_waits_is_ended(pool, monkeypatch):
    from corsa.bench.code import testing

    monkeypatch.setattr(testing, "WALL_SECONDS", 1)
    (found,) = verdicts(pool, "renamed", 0, "import time\ntime.sleep(100)")
    assert found.reasons == ("timed out",)
    assert found.seconds < 30


def test_one_that_computes_for_ever_is_ended(pool, monkeypatch):
    from corsa.bench.code import testing
    from corsa.sandbox import Limits

    monkeypatch.setattr(testing, "_LIMITS", Limits(processor=2))
    (found,) = verdicts(pool, "renamed", 0, "while True: pass")
    assert found.reasons[0] == "timed out"


def test_equal_solutions_are_run_once_and_the_cost_is_counted(environment):
    pool = Pool(UnsafeRunner(environment), workers=1)
    good = UPDATES["renamed"].tasks[0].reference
    verdicts(pool, "renamed", 0, good, good, good)
    verdicts(pool, "renamed", 0, good)
    cost = pool.cost
    assert cost.solutions == 1
    assert 0 < cost.testing < cost.inside <= cost.wall
    assert 0 < cost.overhead < 1
    assert cost.per_second == pytest.approx(1 / cost.wall)


def test_costs_are_added_up_by_one_thread():
    """`+=` reads and writes: of two threads one may lose what the other added."""
    by = set()

    class Watched(Cost):
        def __setattr__(self, name, value):
            by.add(threading.get_ident())
            super().__setattr__(name, value)

    pool = Pool(Scripted(), workers=2, cost=Watched())
    pool.check([Trial((str(n),)) for n in range(4)])
    assert by == {threading.get_ident()}
    assert (pool.cost.solutions, pool.cost.inside, pool.cost.testing) == (4, 4.0, 1.0)


def test_a_cost_since_then_is_that_of_later_solutions_alone():
    pool = Pool(Scripted(Ended("time", 137, b"", b"", 300.0)))
    pool.check([Trial(("slow",))])
    before = replace(pool.cost)
    pool.check([Trial(("slow",)), Trial(("quick",))])
    since = pool.cost.since(before)
    assert (since.solutions, since.inside, since.overhead) == (1, 1.0, 0.75)
    assert since.wall < pool.cost.wall


def test_ctrl_c_stops_what_runs():
    begun, stopped = threading.Event(), threading.Event()

    class Waiting:
        def run(self, program, given, limits, stop):
            begun.set()
            assert stop.wait(30)
            stopped.set()
            return Ended("stopped", 137, b"", b"", 0.0)

    class Impatient:
        def run(self, *_):
            assert begun.wait(30)
            raise KeyboardInterrupt

    class Both:
        def __init__(self):
            self.runners = [Waiting(), Impatient()]

        def run(self, *words):
            return self.runners.pop(0).run(*words)

    with pytest.raises(KeyboardInterrupt):
        Pool(Both(), workers=2).check([Trial(("a",)), Trial(("b",))])
    assert stopped.is_set()


def test_results_before_a_kill_count_and_the_rest_has_failed():
    lines = "".join(
        json.dumps(line) + "\n" for line in (["ready", "passed", 0], ["new", "passed", 1.5])
    )
    ended = Ended("time", 137, (lines + '["new", "pas').encode(), b"", 60.0)
    found = _verdict(Trial(("a", "b", "c"), ("a",)), ended)
    assert found == Verdict(
        (True, False, False), None, ("killed: time",), "killed: time", "time", 60.0, 1.5, False
    )


def test_what_was_killed_before_a_test_failed_without_the_update_is_not_right_by_it():
    def ended(*lines):
        return Ended(
            "memory", 137, written(["ready", "passed", 0], ["new", "passed", 1], *lines), b"", 1
        )

    unknown = _verdict(Trial(("a",), ("a",)), ended())
    assert (unknown.passes, unknown.old, unknown.by_the_update) == (True, None, False)
    assert fault(unknown) == "may pass without the update, too: killed: memory"
    known = _verdict(Trial(("a",), ("a", "b")), ended(["old", "AssertionError: ", 1]))
    assert (known.passes, known.old, known.by_the_update) == (True, False, True)


# --- y⁻ -------------------------------------------------------------------------------------------


def test_a_renamed_function_gives_a_solution_that_passes_only_without_the_update(pool):
    update = UPDATES["renamed"]
    (found,) = verdicts(pool, "renamed", 1, outdated(update, update.tasks[1]))
    assert found.old
    assert not found.passes
    assert outdated(UPDATES["argument"], UPDATES["argument"].tasks[0]) is None
