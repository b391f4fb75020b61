"""A benchmark: for every method and seed, rounds of edits on a fresh store, measured after each.

::

    bench.json            what was asked for; --resume must ask for the same
    draws/seed0.json      the edits of each round under a seed, the same for every method
    stores/               half-done runs; a finished one's store is removed unless it is to be kept
    runs/corsa-seed0.json one finished run, with every reply in the .jsonl beside it
    report.json, table.md, metrics.csv, retention.csv, generations.jsonl, figures/

The model is loaded once, and the base model answers a question once for all methods and seeds.
"""

from __future__ import annotations

import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corsa.bench.code.domain import CodeDomain, Measured
from corsa.bench.code.options import CodeOptions, Programs, open_pool, where
from corsa.bench.contenders import Contender, as_recorded, refuse_same_files
from corsa.bench.datasets import DATASETS, load
from corsa.bench.draws import draw
from corsa.bench.extras import EACH_ROUND, EXTRAS, PROTOCOLS, RUN_PROGRAMS, check_files
from corsa.bench.figures import draw_figures
from corsa.bench.finished import Finished
from corsa.bench.origin import commit, hardware
from corsa.bench.runs import Runs, collect, replies
from corsa.bench.schedule import Schedule
from corsa.bench.tables import report, write_tables
from corsa.config import METHODS, Config
from corsa.edits import Edit
from corsa.errors import CorsaError, Interrupted, LockedError, StoreError, UsageError
from corsa.evaluation import REPLY_TOKENS, drift_questions, unusable
from corsa.files import remove_folder, seal, sha256_file, unseal, write_atomically
from corsa.floors import agreement_floors
from corsa.matching import contains, strip_answer
from corsa.metrics import Number
from corsa.naming import with_subject
from corsa.optional import optional
from corsa.planning import holding
from corsa.progress import Progress, Silent
from corsa.sandbox.environment import make_environment
from corsa.sources import EMBEDDED, cache_folder, first_line, resolve
from corsa.store import Store
from corsa.validation import printable, short
from corsa.variations import Edited

_RECORD = "bench.json"
# What a run tells of its draw.
_OF_DRAWS = ("drawn", "kept", "warnings", "left_out")


@dataclass(frozen=True)
class Benchmark:
    """What to compare.

    Attributes:
        dataset: a name in `corsa.bench.datasets.DATASETS`.
        methods: what is compared.
        rounds: per run.
        edits: per round.
        seeds: each draws its own edits and seeds the training.
        model: the base model.
        data: a local file instead of the one on the hub.
        first: place of the first record that may be drawn.
        last: place behind the last one.
        neighbours: how many of each edit's locality probes are measured; `None`: all.
        known_only: draw only edits whose old answer the base model gives.
        extras: further measures, with a file where one was named.
        code: how programs are asked for, where some are.
        reset: of code: a run teaches one update; its seed says which, so that seeds go through all.
        unsafe: run programs that the model wrote without a sandbox.
        settings: of all methods.
        revision: branch, tag or commit of a Hugging Face id.
        trust_remote_code: whether the model's repository may run its own Python files.
    """

    dataset: str
    methods: Sequence[Contender]
    rounds: int
    edits: int
    seeds: Sequence[int]
    model: str = EMBEDDED
    data: Path | None = None
    first: int = 0
    last: int | None = None
    neighbours: int | None = None
    known_only: bool = False
    extras: Mapping[str, str | None] = field(default_factory=dict)
    code: CodeOptions = field(default_factory=CodeOptions)
    reset: bool = False
    unsafe: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    trust_remote_code: bool = False


def run_benchmark(
    benchmark: Benchmark,
    out: Path,
    *,
    resume: bool = False,
    keep_stores: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make every run that is not finished, and sum all of them up.

    Args:
        benchmark: what to compare.
        out: the folder for all of it.
        resume: go on with what is there.
        keep_stores: keep the adapters of finished runs.
        progress: told what goes on.

    Returns:
        The report: `dataset`, `protocol`, `methods` and more; it is in `report.json`, too.

    Raises:
        UsageError: if it cannot be meant like this, or is not what the folder was begun with.
        Interrupted: on Ctrl-C; finished rounds are kept, finished runs are summed up.
        CorsaError: if runs failed; the report was made of the others.
    """
    for library in ("scipy.stats", "matplotlib.figure"):
        optional(library, "bench")  # a long run that could not be summed up is not begun
    if "seed" in benchmark.settings:
        raise UsageError("every run has its own seed: give --seeds, not --set seed")
    progress = progress or Silent()
    for contender in benchmark.methods:
        contender.config(benchmark.settings, benchmark.seeds[0])
    _check_code(benchmark)
    code = benchmark.dataset in DATASETS and DATASETS[benchmark.dataset].code
    for contender in () if code else benchmark.methods:  # programs are trained
        if idle := contender.idle(benchmark.settings):
            progress.say(
                f"{contender.label}: a round that is written in closed form does not look at "
                f"{', '.join(idle)}; to vary training, add preset=trained (or solve=false)"
            )
    if resume and not (out / _RECORD).exists():
        progress.say(f"{out} holds no benchmark to go on with: --resume begins one")
    with _locked(out, resume=resume):
        try:
            work = _Work(benchmark, out, progress)
            try:
                failures = work.make_runs(keep_stores=keep_stores)
            except (KeyboardInterrupt, Interrupted):
                work.sum_up()
                raise Interrupted from None  # said below, as where this is interrupted, too
            document = work.sum_up()
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted(
                f"interrupted: what is finished is in {out}; the same command with --resume goes on"
            ) from None
    if document is None:
        raise CorsaError(f"no run could be finished: {'; '.join(failures)}")
    if failures:
        _, runs = work.results()
        raise CorsaError(
            f"{len(failures)} of {len(failures) + len(runs)} runs failed, the rest is summed up in "
            f"{out} and --resume tries them again: {'; '.join(failures)}"
        )
    return document


def _check_code(b: Benchmark) -> None:
    """Refuse what is about code where there is none, and what contradicts itself."""
    code = b.dataset in DATASETS and DATASETS[b.dataset].code
    if code and b.data is None:
        raise UsageError(
            f"{b.dataset} is read from a file: get it from the Hugging Face hub "
            "(leo-liuzy/CodeUpdateArena) or its repository, and give it with --data FILE"
        )
    if code and (b.known_only or b.neighbours is not None):
        raise UsageError("--known-only and --neighbours are about facts: leave them out")
    if b.reset and not code:
        raise UsageError("--reset is for codeupdatearena: leave it out")
    if b.reset and b.rounds * b.edits != 1:
        raise UsageError("--reset teaches one update in each run: give --rounds 1 --edits 1")
    if not code and any(contender.lessons for contender in b.methods):
        raise UsageError("teach and rejected are for codeupdatearena: leave them out")


@contextmanager
def _locked(out: Path, *, resume: bool) -> Iterator[None]:
    from filelock import FileLock, Timeout

    begun = (out / _RECORD).exists()
    if begun and not resume:
        raise UsageError(
            f"{out} holds a benchmark already: go on with it by --resume, or give another --out"
        )
    # Names with a dot are the lock, and what a write that was killed left behind.
    if not begun and out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise StoreError(f"{out} holds something else: give an empty or new folder as --out")
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            try:
                yield
            finally:
                # What was refused leaves no folder behind.
                if new and [path.name for path in out.iterdir()] == [".lock"]:
                    remove_folder(out)
    except Timeout:
        raise LockedError(
            f"somebody else is at work in {out}: wait, or give another --out"
        ) from None


class _Work:
    """A benchmark under way."""

    def __init__(self, benchmark: Benchmark, out: Path, progress: Progress) -> None:
        self.benchmark = benchmark
        self.out = out
        self.runs = Runs(out)
        self.progress = progress
        self._programs_kept: Programs | None = None
        self.domain: CodeDomain | None = None
        b = benchmark
        if b.dataset in DATASETS and DATASETS[b.dataset].code:
            assert b.data is not None
            # Before the reference solutions, which take minutes.
            check_files({name: file for name, file in b.extras.items() if file})
            self.domain = CodeDomain(b.data, b.first, b.last, b.code, progress, unsafe=b.unsafe)
            self.loaded = self.domain.loaded
        else:
            self.loaded = load(b.dataset, b.data, b.first, b.last)
        if benchmark.known_only and all(edit.target_old is None for edit in self.loaded.edits):
            raise UsageError(
                f"--known-only is about old answers, and {benchmark.dataset} gives none: leave it out"
            )
        self.record = self._agreed()
        self._programs()  # where there can be no sandbox, that is said before anything is trained
        # Of the code that is loaded, not of later ones; the whole package, not this folder alone.
        self.commit = commit(Path(__file__).parents[1])
        # Never written to: it holds the loaded model for the stores of all runs.
        self.home = Store.open(
            out / "stores" / "base",
            benchmark.model,
            revision=benchmark.revision,
            trust_remote_code=benchmark.trust_remote_code,
        )

    def _agreed(self) -> dict[str, Any]:
        """What is asked for, and was; refuses what cannot be both."""
        asked, path = self._asked(), self.out / _RECORD
        if not path.exists():
            return asked
        begun = unseal(path)
        if (
            not self.runs.any()
        ):  # what is measured at the end of runs may be mended until one has ended
            begun.pop("extra_files", None)
        return _joined(begun, asked)

    def _asked(self) -> dict[str, Any]:
        b = self.benchmark
        source = resolve(b.model, b.revision, trust_remote_code=b.trust_remote_code)
        return {
            "dataset": {**self.loaded.source, "about": DATASETS[b.dataset].about},
            "rounds": b.rounds,
            "edits": b.edits,
            "known_only": b.known_only,
            "neighbours": b.neighbours,
            "extras": dict(b.extras),
            "extra_files": {
                name: {"file": Path(file).name, "sha256": _sha256(name, Path(file))}
                for name, file in b.extras.items()
                if file
            },
            "extra_protocols": {name: _protocol(name, unsafe=b.unsafe) for name in b.extras}
            | ({"programs": self.domain.protocol(reset=b.reset)} if self.domain else {}),
            "code": {**b.code.to_dict(), "reset": b.reset, "unsafe": b.unsafe},
            "model": {"name": source.name, "revision": source.revision, "sha256": source.sha256},
            "seeds": list(b.seeds),
            "methods": [  # a list: the first is what the others are compared with
                {
                    "label": contender.label,
                    "file_name": contender.file_name,
                    "typed": contender.typed,
                    "config": _without_seed(contender.config(b.settings, 0).to_dict()),
                    "lessons": dict(contender.lessons),
                }
                for contender in b.methods
            ],
            "settings": dict(b.settings),
            "left_out": [entry._asdict() for entry in self.loaded.left_out],
        }

    def make_runs(self, *, keep_stores: bool) -> list[str]:
        """Make what is lacking, all methods of a seed before the next.

        Returns:
            What failed, one line each.

        Raises:
            Interrupted: on Ctrl-C.
        """
        undone, schedule = self._undone()
        if undone:
            check_files(self.benchmark.extras)
        draws = {seed: self._draw(seed) for seed in dict.fromkeys(seed for _, seed in undone)}
        self._claim(draws.values())
        if not undone:
            return []
        self._ask_floors(draws.values())
        failures = []
        for contender, seed in undone:
            with schedule.run(contender.label, self.benchmark.rounds):
                try:
                    self._make_run(contender, draws[seed], schedule, keep_stores=keep_stores)
                except Interrupted:
                    raise
                except Exception as error:  # noqa: BLE001  (it costs the other runs nothing)
                    failures.append(f"{contender.label}, seed {seed}: {_said(error)}")
                    self.progress.say(f"failed: {failures[-1]}")
                    if not isinstance(error, CorsaError):
                        self.progress.say(traceback.format_exc())
        return failures

    def _ask_floors(self, draws: Iterable[Mapping[str, Any]]) -> None:
        """Load the model, and ask for the floors of all runs at once what each would ask for its own."""
        b = self.benchmark
        groups = [
            [probe.prompt for edit in _edits(drawn) for probe in edit.locality] for drawn in draws
        ]
        if any(contender.config(b.settings, 0).drift for contender in b.methods):
            groups.append([question.prompt for question in drift_questions()])
            for drawn in draws:
                edits = [with_subject(edit) for edit in _edits(drawn)]
                edited = Edited(edits)
                groups.append([prompt for edit in edits for prompt in edited.besides(edit)])
        with self.home.opened(progress=self.progress, **b.settings) as (model, base, _):
            agreement_floors(model, base, groups, progress=self.progress)

    def _claim(self, draws: Iterable[Mapping[str, Any]]) -> None:
        """Note what is begun, once there is something to begin with."""
        write_atomically(self.out / _RECORD, seal(self.record))
        self.record = unseal(self.out / _RECORD)
        folder = self.out / "draws"
        folder.mkdir(exist_ok=True)
        for drawn in draws:
            write_atomically(folder / f"seed{drawn['seed']}.json", seal(drawn))

    def _undone(self) -> tuple[list[tuple[Contender, int]], Schedule]:
        undone, left, seconds = [], Counter[str](), defaultdict[str, list[float]](list)
        for seed in self.benchmark.seeds:
            for contender in self.benchmark.methods:
                finished = self.runs.read(contender.file_name, seed)
                if finished is None:
                    undone.append((contender, seed))
                    left[contender.label] += self.benchmark.rounds
                else:
                    parts = (row["seconds"].values() for row in finished["rounds"])
                    seconds[contender.label] += [sum(filter(None, each)) for each in parts]
        return undone, Schedule(self.progress, left, seconds)

    def _draw(self, seed: int) -> dict[str, Any]:
        """The edits of every round under a seed: drawn once, then read."""
        b, path = self.benchmark, self.out / "draws" / f"seed{seed}.json"
        if path.exists():
            return unseal(path)
        if self.domain is not None:
            heads = self.domain.heads(seed, reset=b.reset)
            return draw(heads, seed, b.rounds, b.edits, None, self._unusable)
        edits = [_with_neighbours(edit, b.neighbours) for edit in self.loaded.edits]
        knows = self._knows if b.known_only else None
        return self._answered(draw(edits, seed, b.rounds, b.edits, knows, self._unusable))

    def _answered(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """A draw with y⁻ where the data set gives none: what the base model says.

        Asked of the model as it is at each round, every method would be measured against what it has
        made of the model.

        Returns:
            The draw; an edit whose new answer the base model says has no y⁻.
        """
        if all(edit.target_old is not None for edit in _edits(drawn)):
            return drawn
        plan = self.home.plan([*_edits(drawn)], progress=self.progress, **self.benchmark.settings)
        edits = iter([planned.edit.to_record() for planned in plan.edits])
        rounds = [[next(edits) for _ in part] for part in drawn["rounds"]]
        for record in (record for part in rounds for record in part):
            # A model may say what no record may hold.
            said = printable(record.pop("target_old", None) or "")
            record |= {"target_old": said} if strip_answer(said) else {}
        return drawn | {"rounds": rounds}

    def _unusable(self, edits: Sequence[Edit]) -> dict[str, str]:
        """The edits that the model cannot take, by id, and why."""
        with self.home.opened(progress=self.progress, **self.benchmark.settings) as (model, *_):
            if self.domain is None:
                return {edit.id: why for edit, why in unusable(model, edits)}
            texts = {edit.id: self.domain.texts(edit) for edit in edits}
            found = {id: [why for _, why in unusable(model, each)] for id, each in texts.items()}
            return {id: whys[0] for id, whys in found.items() if whys}

    def _knows(self, edits: Sequence[Edit]) -> list[bool]:
        """Whether the base model gives the old answer of each edit, or may: it cannot read it."""
        unread = self._unusable(edits)
        asked = [edit for edit in edits if edit.id not in unread]
        if not asked:
            return [True] * len(edits)
        answers = self.home.ask(
            [edit.prompt for edit in asked],
            round=0,
            max_new_tokens=REPLY_TOKENS,
            progress=self.progress,
            **self.benchmark.settings,
        )
        known = {
            edit.id
            for edit, answer in zip(asked, answers, strict=True)
            if edit.target_old is not None and contains(answer.base, edit.target_old)
        }
        return [edit.id in known or edit.id in unread for edit in edits]

    def _make_run(
        self,
        contender: Contender,
        drawn: Mapping[str, Any],
        schedule: Schedule,
        *,
        keep_stores: bool,
    ) -> None:
        b, seed = self.benchmark, drawn["seed"]
        name = f"{contender.label}, seed {seed}"
        store = self.home.beside(self.out / "stores" / f"{contender.file_name}-seed{seed}")
        settings = {**b.settings, **contender.settings, "seed": seed}
        before = store.head
        schedule.skip(contender.label, before)
        for number in range(before + 1, b.rounds + 1):
            edits = list(self._lessons(drawn["rounds"][number - 1], contender))
            with schedule.round(contender.label, f"{name}, round {number}"):
                # What all edits have become is asked once, when the last of them is in.
                store.update(edits, progress=schedule, in_full=number == b.rounds, **settings)
        run: dict[str, Any] = {
            "method": contender.label,
            "seed": seed,
            "config": contender.config(b.settings, seed).to_dict(),
            "draw": {key: drawn[key] for key in _OF_DRAWS if key in drawn},
            **collect(
                store.ledger,
                multi_hop=DATASETS[b.dataset].multi_hop,
                types=self.loaded.types,
            ),
        }
        with schedule.end(contender.label, name):
            extra = self._extras(store, contender.config(b.settings, seed), schedule)
            asked = self._asked_programs(store, contender, settings, schedule)
            rows = run["rounds"]
            self._extras_of_rounds(store, contender.config(b.settings, seed), rows, schedule)
        if asked is not None:
            extra |= asked.numbers()
            run["matrix"]["upass"] = asked.matrix()
        if taken := sorted(extra.keys() & run["final"].keys()):
            raise UsageError(f"extra measures are named like the store's own: {', '.join(taken)}")
        run["final"] |= extra
        run["extra"] = sorted(extra)
        run["measures"] = list(b.extras)  # of a folder's, those that this run was not without
        line = store.ledger.lineage(store.ledger.head)
        dtypes = [made.metrics()["training"].get("train_dtype") for made in line]
        run["origin"] = {
            "commit": self.commit,
            **hardware(run["protocol"]["device"]),
            # "auto" goes by the processor, and a run may go on with other code on another one.
            "train_dtype": " and ".join(dict.fromkeys(filter(None, dtypes))) or None,
            "rounds_before": before,
        }
        written = replies(store.ledger, contender.label, seed)
        written += asked.replies(contender.label, seed) if asked is not None else ()
        self.runs.write(contender.file_name, run, written)
        if not keep_stores:
            remove_folder(store.path)

    def _lessons(self, drawn: Sequence[Mapping[str, Any]], contender: Contender) -> Iterator[Edit]:
        """The edits of a round: those drawn, or what teaches the updates that were."""
        for record in drawn:
            if self.domain is None:
                yield Edit.from_record(record)
            else:
                yield from self.domain.lessons(record, contender.lessons)

    def _asked_programs(
        self, store: Store, contender: Contender, settings: Mapping[str, Any], progress: Progress
    ) -> Measured | None:
        if self.domain is None:
            return None
        name = f"{contender.file_name}-seed{settings['seed']}"
        return self.domain.measure(store, settings, self.out / "programs", name, progress)

    def _programs(self) -> Programs | None:
        """Where programs of a further measure are run; without libraries if the data set needs none."""
        b = self.benchmark
        if self.domain is not None:
            return self.domain.programs
        if self._programs_kept is None and RUN_PROGRAMS & b.extras.keys():
            environment = make_environment(cache_folder(), progress=self.progress)
            self._programs_kept = Programs(open_pool(environment, unsafe=b.unsafe), b.code)
        return self._programs_kept

    def _extras(self, store: Store, config: Config, progress: Progress) -> dict[str, Number]:
        found: dict[str, Number] = {}
        if not self.benchmark.extras:
            return found
        line = store.ledger.lineage(store.head)
        edits = holding([planned for made in line for planned in made.edits()])
        with store.opened(progress=progress, **config.to_dict()) as (base, before, after):
            for name, file in self.benchmark.extras.items():
                progress.begin(f"measuring {name}")
                data = Path(file) if file else None
                finished = Finished(
                    base, before, after, edits, config, progress, data, self._programs()
                )
                with _named(name):
                    found |= EXTRAS[name](finished)
        return found

    def _extras_of_rounds(
        self, store: Store, config: Config, rows: Sequence[dict[str, Any]], progress: Progress
    ) -> None:
        """What is measured of every round, into its row."""
        measures = {name: EACH_ROUND[name] for name in self.benchmark.extras if name in EACH_ROUND}
        line = store.ledger.lineage(store.head)
        for place, row in enumerate(rows if measures else (), 1):
            edits = holding([planned for made in line[:place] for planned in made.edits()])
            progress.begin(f"measuring the sharpness after round {row['round']}")
            options = {"round": row["round"], "progress": progress, **config.to_dict()}
            with store.opened(**options) as (base, before, after):
                finished = Finished(base, before, after, edits, config, progress)
                for name, measure in measures.items():
                    with _named(name):
                        row |= measure(finished)

    def sum_up(self) -> dict[str, Any] | None:
        """Write the report of all finished runs.

        Returns:
            The report; `None` if no run is finished.
        """
        found, runs = self.results()
        if not runs:
            return None
        self.progress.begin("writing tables and figures")
        document = report(found, runs)
        write_tables(self.out, document, runs, self.generations())
        draw_figures(self.out / "figures", document, runs)
        return document

    def results(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What was asked for, and every finished run, method by method.

        Returns:
            The record and the runs.
        """
        found = (self.runs.read(name, seed) for name, seed in self._names())
        return self.record, [run for run in found if run is not None]

    def generations(self) -> Iterator[dict[str, Any]]:
        """Every reply of every finished run.

        Yields:
            Plain data.
        """
        for name, seed in self._names():
            if self.runs.path(name, seed).exists():
                yield from self.runs.generations(name, seed)

    def _names(self) -> list[tuple[str, int]]:
        methods, seeds = self.record["methods"], self.record["seeds"]
        return [(method["file_name"], seed) for method in methods for seed in seeds]


def _edits(drawn: Mapping[str, Any]) -> Iterator[Edit]:
    """The edits of all rounds of a draw."""
    for records in drawn["rounds"]:
        yield from map(Edit.from_record, records)


def _with_neighbours(edit: Edit, count: int | None) -> Edit:
    return edit if count is None else replace(edit, locality=edit.locality[:count])


@contextmanager
def _named(extra: str) -> Iterator[None]:
    """Inside the block errors say which further measure failed, and what can be done."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:  # other people's libraries raise anything
        raise CorsaError(
            f"--extras {extra}: {_said(error)} (its rounds are kept: --resume measures it again, and "
            f"not {extra} if you leave that out)"
        ) from error


def _said(error: Exception) -> str:
    known = isinstance(error, CorsaError)
    return str(error) if known else f"{type(error).__name__}: {first_line(error)}"


def _sha256(extra: str, file: Path) -> str:
    if not file.is_file():
        raise UsageError(f"--extras {extra}: there is no file {file}")
    return sha256_file(file)


def _protocol(extra: str, *, unsafe: bool) -> str:
    said = PROTOCOLS.get(extra, "")
    return f"{said}; run {where(unsafe=unsafe)}" if extra in RUN_PROGRAMS else said


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "seed"}


def _joined(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder was begun with and what is asked now: methods and seeds may come, nothing change."""
    # A further measure may be left out from now on: one that fails must not hold a trained run.
    kept = {
        part: {
            name: told for name, told in recorded.get(part, {}).items() if name in asked["extras"]
        }
        for part in ("extras", "extra_files")
        if part in recorded
    }
    before, now = dict(_fixed({**recorded, **kept})), dict(_fixed(asked))
    differing = [
        f"{name} was {short(before[name])} and is now {short(now[name])}"
        for name in now
        if name in before and before[name] != now[name]
    ]
    if differing:
        raise UsageError(
            f"this benchmark was begun otherwise: {'; '.join(differing)}; ask for the same, or give "
            "another --out"
        )
    methods = {method["label"]: method for method in (*recorded["methods"], *asked["methods"])}
    refuse_same_files(method["file_name"] for method in methods.values())
    told = ("extras", "extra_files", "extra_protocols")
    return {
        **asked,
        **{part: {**recorded.get(part, {}), **asked[part]} for part in told},
        "seeds": list(dict.fromkeys([*recorded["seeds"], *asked["seeds"]])),
        "methods": list(methods.values()),
    }


def _fixed(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What must not change between two commands, by the name a user would know."""
    for name in ("rounds", "edits", "known_only", "neighbours", "code"):
        yield name, record[name]
    yield "extras", sorted(record["extras"])  # their files go by what is in them
    for name, told in (("settings", "--set"), ("extra_files", "the files of --extras")):
        if name in record:  # not noted by earlier versions
            yield told, record[name]
    for name in ("name", "sha256", "from", "to"):
        yield f"dataset {name}", record["dataset"][name]
    for name in ("name", "revision", "sha256"):
        yield f"model {name}", record["model"][name]
    for method in record["methods"]:
        config = method["config"]
        if METHODS[config["method"]]:  # to others a setting that came later means nothing
            config = as_recorded(config)
        for name, value in (config | method["lessons"]).items():
            yield f"{method['label']} {name}", value
