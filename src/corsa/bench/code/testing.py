"""Solutions tested: a pool of sandboxes, one for each solution, and what each came to."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from corsa import sandbox
from corsa.bench.code.programs import heavy_imports
from corsa.files import sha256_text
from corsa.progress import Progress, Silent
from corsa.sandbox import Ended, Limits

# Seconds of a processor that one test may take; upstream allows 15 of wall time, and a busy machine must
# not decide what passes.
TEST_SECONDS = 15
# Seconds of wall time, for one test and for all of a solution: for those that wait. After the first test
# that takes too long the others of its group are not run, and count as failed.
WALL_SECONDS = 60
_LIMITS = Limits(seconds=5 * WALL_SECONDS, processor=TEST_SECONDS, processes=16)
_HARNESS = Path(__file__).with_name("harness.py")
_SANDBOX = Path(sandbox.__file__).parent
# What the harness says of a program.
_PASSED, _TOO_LONG, _ENDED_EARLY = "passed", "timed out", "ended early"


class Runner(Protocol):
    """A `Sandbox`, or what stands in for one."""

    def run(
        self,
        program: str,
        given: bytes = b"",
        limits: Limits = ...,
        stop: threading.Event | None = None,
    ) -> Ended:
        """Run a program; see `Sandbox.run`."""
        ...


class Trial(NamedTuple):
    """A solution and the programs that test it.

    Attributes:
        new: with the update in force, one for every test.
        old: without it.
    """

    new: tuple[str, ...]
    old: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """What a solution came to.

    Attributes:
        new: for every test whether it passes with the update in force.
        old: whether all pass without it; they are run until one fails. `None`: the sandbox was killed
            before any did.
        reasons: why tests with the update failed, each once.
        reason_old: why the first one without it failed, or is not known; "" if all passed.
        why: how the sandbox ended.
        seconds: that it ran.
        testing: seconds of these spent in tests.
        settled: every program that was run came to an end of its own. What was killed or took too long
            may do better on another day.
    """

    new: tuple[bool, ...]
    old: bool | None
    reasons: tuple[str, ...] = ()
    reason_old: str = ""
    why: str = "exit"
    seconds: float = 0.0
    testing: float = 0.0
    settled: bool = True

    @property
    def passes(self) -> bool:
        """All tests pass with the update."""
        return bool(self.new) and all(self.new)

    @property
    def by_the_update(self) -> bool:
        """All tests pass with it, and not all without: the solution uses the update."""
        return self.passes and self.old is False


@dataclass
class Cost:
    """What testing took.

    Attributes:
        solutions: how many sandboxes were run.
        wall: seconds from the first to the last.
        inside: seconds that sandboxes ran, summed.
        testing: seconds of these in tests; the rest is overhead: the sandbox, the interpreter, imports.
    """

    solutions: int = 0
    wall: float = 0.0
    inside: float = 0.0
    testing: float = 0.0

    def since(self, before: Cost) -> Cost:
        """What has come to it.

        Args:
            before: a copy from an earlier time.

        Returns:
            The difference.
        """
        return Cost(**{name: value - asdict(before)[name] for name, value in asdict(self).items()})

    @property
    def per_second(self) -> float:
        """Solutions per second of wall time."""
        return self.solutions / self.wall if self.wall else 0.0

    @property
    def overhead(self) -> float:
        """Share of the sandboxes' time that is not spent in tests."""
        return 1 - self.testing / self.inside if self.inside else 0.0


@dataclass
class Pool:
    """Tests solutions, as many at a time as there are cores.

    Attributes:
        runner: where programs run.
        environment: names what they run with: interpreter and libraries.
        workers: how many at a time.
        cost: of everything tested so far.
    """

    runner: Runner
    environment: str = ""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    cost: Cost = field(default_factory=Cost)
    _known: dict[Trial, Verdict] = field(default_factory=dict)

    def conditions(self) -> list[Any]:
        """All that a settled verdict depends on, beside the programs.

        Returns:
            Plain data, to name what is kept of verdicts.
        """
        rooms = [_HARNESS, *sorted(_SANDBOX.glob("*.py"))]
        code = sha256_text("".join(room.read_text("utf-8") for room in rooms))
        return [
            self.environment,
            type(self.runner).__name__,
            WALL_SECONDS,
            asdict(_LIMITS),
            code,
        ]

    def check(
        self,
        trials: Sequence[Trial],
        progress: Progress | None = None,
        found: Callable[[Trial, Verdict], object] | None = None,
    ) -> list[Verdict]:
        """Test solutions; equal ones once.

        Args:
            trials: the solutions.
            progress: told after each.
            found: told each verdict as soon as it is there, so that it can be kept.

        Returns:
            One verdict each.
        """
        progress, start, stop = progress or Silent(), time.monotonic(), threading.Event()
        new = [trial for trial in dict.fromkeys(trials) if trial not in self._known]
        with ThreadPoolExecutor(self.workers) as threads:
            futures: dict[Future[Verdict], Trial] = {
                threads.submit(self._check, trial, stop): trial for trial in new
            }
            try:
                for future in as_completed(futures):
                    trial, verdict = futures[future], future.result()
                    self._known[trial] = verdict
                    self._count(verdict)  # here and not in the threads: their sums would race
                    if found is not None:
                        found(trial, verdict)
                    progress.advance()
            except BaseException:
                stop.set()
                threads.shutdown(wait=True, cancel_futures=True)
                raise
        self.cost.wall += time.monotonic() - start
        progress.advance(len(trials) - len(new))
        return [self._known[trial] for trial in trials]

    def _check(self, trial: Trial, stop: threading.Event) -> Verdict:
        job = {
            "imports": heavy_imports([*trial.new[:1], *trial.old[:1], *trial.new[1:]]),
            "seconds": WALL_SECONDS,
            "groups": {"new": trial.new, "old": trial.old},
            "until_failure": ["old"],
        }
        ended = self.runner.run(
            _HARNESS.read_text("utf-8"), json.dumps(job).encode(), _LIMITS, stop
        )
        return _verdict(trial, ended)

    def _count(self, verdict: Verdict) -> None:
        self.cost.solutions += 1
        self.cost.inside += verdict.seconds
        self.cost.testing += verdict.testing


def _verdict(trial: Trial, ended: Ended) -> Verdict:
    results: dict[str, list[str]] = {"ready": [], "new": [], "old": []}
    testing = 0.0
    for line in ended.output.decode(errors="replace").split("\n"):
        try:
            group, result, seconds = json.loads(line)
            results[group].append(str(result))
            testing += float(seconds)
        except (ValueError, KeyError, TypeError):
            continue  # the last line of one that was killed
    new, old = results["new"], results["old"]
    missing = _missing(ended, results)
    reasons = [result for result in new if result != _PASSED]
    reasons += [missing] if len(new) < len(trial.new) else []
    failed_old = [result for result in old if result != _PASSED]
    unknown = [missing] if not failed_old and len(old) < len(trial.old) else []
    passed = [result == _PASSED for result in new] + [False] * (len(trial.new) - len(new))
    return Verdict(
        new=tuple(passed[: len(trial.new)]),
        old=None if unknown else bool(trial.old) and not failed_old,
        reasons=tuple(dict.fromkeys(reasons)),
        reason_old=next(iter(failed_old + unknown), ""),
        why=ended.why,
        seconds=ended.seconds,
        testing=testing,
        settled=ended.why == "exit"
        and ended.status == 0
        and bool(results["ready"])
        and not any(said == _TOO_LONG or said.startswith(_ENDED_EARLY) for said in new + old),
    )


def _missing(ended: Ended, results: Mapping[str, list[str]]) -> str:
    """Why results are missing."""
    if _TOO_LONG in results["new"] + results["old"]:
        return _TOO_LONG
    if ended.why != "exit":
        return f"killed: {ended.why}"
    if not results["ready"]:
        said = ended.errors.decode(errors="replace").strip().split("\n")[-1]
        return f"could not be run: {said}"
    return f"{_ENDED_EARLY} (status {ended.status})"
