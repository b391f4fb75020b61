"""A store: one base model, and the rounds of edits it went through.

>>> store = Store.open("facts")                       # doctest: +SKIP
>>> store.update([{"prompt": "Who is the CEO of Apple?", "target_new": "Tim Cook"}])
>>> store.ask(["Who runs Apple?"])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corsa.acceptance import parse_conditions
from corsa.config import Config, make_config
from corsa.edits import Edit
from corsa.errors import CorsaError, Interrupted, ModelError, StoreError, TrainingError, UsageError
from corsa.giving_back import give_back
from corsa.ledger import Ledger, Problem, Round, check_free, now
from corsa.metrics import headlines
from corsa.planning import active
from corsa.progress import Progress, Silent
from corsa.readers import Reading, edits_from_records, read_edits
from corsa.results import Answer, Export, Plan, Update
from corsa.sources import EMBEDDED, ModelSource, conversion_is_whole, full_sha256, resolve

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from corsa.answerers import Answerer
    from corsa.models import BaseModel
    from corsa.session import Session

Edits = str | Path | Iterable[Edit | Mapping[str, Any]]

# Where a reply to `ask` is cut.
ASK_TOKENS = 96


class Store:
    """A base model and its rounds of edits. Make one with `Store.open`.

    Args:
        path: the folder; it appears with the first round.
        model: `smollm2`, a GGUF file, a local folder or a Hugging Face id.
        ledger: the rounds on disk, if there are any.
        revision: branch, tag or commit of a Hugging Face id.
        trust_remote_code: whether the model's repository may run its own Python files.
    """

    def __init__(
        self,
        path: Path,
        model: str,
        ledger: Ledger | None,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.path = path
        self.model = model
        self._ledger = ledger
        self._revision = revision
        self._trust_remote_code = trust_remote_code
        self._session_kept: Session | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: str | None = None,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> Store:
        """Open a store, or prepare a new one; nothing is written and no model is loaded yet.

        Args:
            path: the folder.
            model: the base model; needed for a new store unless it is `smollm2`.
            revision: branch, tag or commit of a Hugging Face id.
            trust_remote_code: whether the model's repository may run its own Python files.

        Returns:
            The store.

        Raises:
            StoreError: if the folder holds something else, or a store of another model.
        """
        folder = Path(path).expanduser()
        if not (folder / "store.json").exists():
            check_free(folder)
            return cls(
                folder,
                model or EMBEDDED,
                None,
                revision=revision,
                trust_remote_code=trust_remote_code,
            )
        ledger = Ledger(folder)
        name = str(ledger.model["name"])
        if model is not None and model != name:
            raise StoreError(
                f"{folder} was made for {name!r}, not for {model!r}: leave --model out, or use "
                "another store"
            )
        return cls(
            folder,
            name,
            ledger,
            revision=revision or ledger.model["revision"],
            trust_remote_code=trust_remote_code,
        )

    def beside(self, path: str | Path) -> Store:
        """Another store of the same model, which is not loaded again.

        Args:
            path: its folder.

        Returns:
            The store; what the base model answered this one it need not answer again.

        Raises:
            StoreError: if the folder holds something else, or a store of another model.
        """
        other = Store.open(
            path, self.model, revision=self._revision, trust_remote_code=self._trust_remote_code
        )
        kept = self._session_kept
        if kept is not None:
            other._check_model(kept.model.source)
            other._session_kept = kept
        return other

    @contextmanager
    def opened(
        self, *, round: int | None = None, progress: Progress | None = None, **settings: Any
    ) -> Iterator[tuple[BaseModel, Answerer, Answerer]]:
        """The loaded model, for measures of one's own.

        Args:
            round: as of that round, 0 for the base model; `None`: the head.
            progress: told what goes on.
            settings: `dtype`, `device`, `attention`, `packing`.

        Yields:
            The base model, who answers with it alone, and who answers as of that round.
        """
        session = self._session(make_config(settings), progress)
        with session.current(round) as answerer:
            yield session.model, session.base, answerer

    @property
    def ledger(self) -> Ledger:
        """The rounds on disk.

        Raises:
            StoreError: if there are none yet.
        """
        if self._ledger is None:
            self._ledger = Ledger(self.path)
        return self._ledger

    @property
    def head(self) -> int:
        """The round in use; 0 is the base model."""
        return 0 if self._ledger is None else self._ledger.head

    def plan(self, edits: Edits, *, progress: Progress | None = None, **settings: Any) -> Plan:
        """What `update` would do; writes nothing.

        Args:
            edits: a file, or records.
            progress: told what goes on.
            settings: as for `update`.

        Returns:
            The plan.
        """
        config = make_config(settings)
        reading = _read(edits)
        session = self._session(config, progress)
        session.check_edits(reading.edits)
        session.check_parent()
        plan = session.plan(reading.edits)
        return Plan(tuple(plan), reading.warnings, session.estimate(plan), self.model, self.head)

    def update(
        self,
        edits: Edits,
        *,
        progress: Progress | None = None,
        trackers: Sequence[GeneralTracker] = (),
        accept: str | None = None,
        drop: Sequence[str] = (),
        discard: bool = False,
        in_full: bool = False,
        **settings: Any,
    ) -> Update:
        """One round: read, plan, train, measure, commit. It appears whole or not at all.

        A round that was interrupted goes on where it was if edits, settings and head are the same.

        Args:
            edits: a facts file, or edits, or native records; may be empty if something is dropped.
            progress: told what goes on.
            trackers: accelerate trackers; each gets loss, margin and rate of every step.
            accept: what the round must reach to be put into use, such as "reliability>=0.95".
            drop: ids of edits to give back: the answer from before each is trained again.
            discard: remove interrupted rounds of other edits instead of putting them aside.
            in_full: measure every edit that holds with all its probes, as `check` does, and sum
                up all of them; otherwise the round's own, and of earlier ones what they retain.
            settings: any of `corsa.config.Config`, such as `method="lora"`.

        Returns:
            The round.

        Raises:
            BadEditsError: if the edits are faulty; nothing is written.
            NotAcceptedError: if it misses `accept`; it is kept, and the head stays where it is.
            TrainingError: if training fails; the head stays where it is.
            Interrupted: on Ctrl-C; the head stays where it is.
        """
        config = make_config(settings)
        conditions = parse_conditions(accept) if accept else ()
        reading = _read(edits, [give_back(self.ledger, id) for id in drop])
        with self._clear_errors():
            session = self._session(config, progress)
            session.check_edits(reading.edits)
            if self._ledger is None:
                self._ledger = Ledger.create(self.path, session.model_record())
            with self._ledger.writing():
                return session.make_round(
                    self._ledger, reading, trackers, conditions, discard=discard, in_full=in_full
                )

    def ask(
        self,
        prompts: Sequence[str],
        *,
        round: int | None = None,
        system: str | None = None,
        max_new_tokens: int = ASK_TOKENS,
        progress: Progress | None = None,
        **settings: Any,
    ) -> list[Answer]:
        """What base and updated model answer.

        Args:
            prompts: the questions.
            round: which round answers; `None`: the head, 0: the base model.
            system: a system prompt in place of the model's own.
            max_new_tokens: where replies are cut.
            progress: told what goes on.
            settings: `dtype`, `device`, `attention`.

        Returns:
            One answer per prompt.

        Raises:
            UsageError: if a prompt is empty, or longer than the model can read.
        """
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise UsageError(f"there is an empty prompt in {list(prompts)!r}: ask something")
        chosen = self.ledger.head if round is None else round
        if chosen:
            self.ledger.round(chosen)
        session = self._session(make_config(settings), progress)
        session.check_prompts(prompts, max_new_tokens, system)
        session.progress.begin("asking", (2 if chosen else 1) * len(prompts))
        base = session.base.answers(prompts, max_new_tokens, system, session.progress)
        new = base
        if chosen:
            with session.answerer(self.ledger.round(chosen)) as answerer:
                new = answerer.answers(prompts, max_new_tokens, system, session.progress)
        return [
            Answer(prompt, before.text, after.text, chosen)
            for prompt, before, after in zip(prompts, base, new, strict=True)
        ]

    def check(
        self,
        *,
        round: int | None = None,
        system: str | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Measure every edit of every round under one round's model.

        Args:
            round: which round; `None`: the head.
            system: a system prompt in place of the model's own.
            progress: told what goes on.
            settings: `dtype`, `device`, `attention`, `drift`.

        Returns:
            Plain data: headlines, retention matrix, every edit, the protocol.

        Raises:
            StoreError: if there is no such round, or no round yet.
        """
        chosen = self.ledger.head if round is None else round
        if not chosen:
            raise StoreError(f"{self.path} is at the base model: there are no edits to check")
        checked = self.ledger.round(chosen)
        return self._session(make_config(settings), progress).check(checked, system)

    def export(
        self,
        out: str | Path,
        format: str = "adapter",
        *,
        round: int | None = None,
        type: str | None = None,
        progress: Progress | None = None,
    ) -> Export:
        """Write a round as other programs load it; the folder appears whole or not at all.

        Args:
            out: a folder that is new or empty.
            format: "adapter" (PEFT), "merged" (a whole Hugging Face model), "gguf-lora" or "gguf"
                (for llama.cpp, of a base model that came from a GGUF file).
            round: which round; `None`: the head.
            type: what numbers are written in; `None`: the format's default.
            progress: told what goes on.

        Returns:
            What was written.

        Raises:
            UsageError: if the round cannot be written so, or `out` holds something.
            StoreError: if there is no such round, or it cannot be written.
            ModelError: if the base model is not here or is laid out in a way that is not known.
        """
        from corsa.export.formats import check_exportable, check_out, choose_type, write_export
        from corsa.export.request import Request

        folder, chosen = Path(out).expanduser(), self._chosen(round)
        written = choose_type(format, type)
        check_exportable(chosen, format)
        check_out(folder, self.path)
        request = Request(
            chosen,
            active([p for made in self.ledger.lineage(chosen.id) for p in made.edits()]),
            self.ledger.model,
            written,
            self._find_base,
            progress or Silent(),
            self._trust_remote_code,
        )
        checked = write_export(request, format, folder)
        names = tuple(sorted(path.name for path in folder.iterdir()))
        return Export(chosen.id, format, written, folder, names, tuple(checked))

    def push(
        self,
        repository: str,
        *,
        round: int | None = None,
        private: bool = False,
        progress: Progress | None = None,
    ) -> str:
        """Upload a round's adapter with its card to the Hugging Face Hub, as one commit.

        Args:
            repository: OWNER/NAME; made if there is none.
            round: which round; `None`: the head.
            private: whether the repository must be private; otherwise one that is made is what
                its owner's are by default.
            progress: told what goes on.

        Returns:
            Where the commit can be seen.

        Raises:
            HubError: if the Hub cannot be reached or refuses.
            UsageError: if the round has no adapter, or `repository` is no name.
        """
        from tempfile import TemporaryDirectory

        from corsa.export.hub import check_repository, upload

        check_repository(repository)
        with TemporaryDirectory() as temporary:
            made = self.export(Path(temporary) / "adapter", round=round, progress=progress)
            message = f"round {made.round}"
            return upload(made.folder, repository, message, progress or Silent(), private=private)

    def log(self) -> dict[str, Any]:
        """The head and all rounds, of other branches too; no model is loaded.

        Returns:
            `head` and `rounds`, each with `round`, `parent`, `edits`, `method`, `model`, `created`,
            `in_use` and the headline `metrics`.
        """
        ledger = self.ledger
        created = {e["round"]: e["created"] for e in ledger.journal() if e["event"] == "round"}
        line = {made.id for made in ledger.lineage(ledger.head)}
        rows = [
            {
                "round": made.id,
                "parent": made.parent,
                "edits": len(made.edits()),
                "method": made.record["method"],
                "model": made.record["model"]["name"],
                "created": created.get(made.id),
                "in_use": made.id in line,
                "metrics": headlines(made.metrics()),
            }
            for made in map(ledger.round, ledger.ids())
        ]
        return {"head": ledger.head, "rounds": rows}

    def rollback(self, round: int) -> None:
        """Put an earlier round, or one of another branch, into use; nothing is deleted.

        Args:
            round: the round; 0 is the base model.

        Raises:
            StoreError: if there is no such round.
        """
        with self.ledger.writing():
            before = self.ledger.head
            if round:
                self.ledger.round(round)  # it must be there before anything is noted
            self.ledger.note({"event": "rollback", "from": before, "to": round, "at": now()})
            self.ledger.move_head(round)

    def verify(self) -> list[Problem]:
        """Recompute every hash of the store, and of the base model.

        Returns:
            What is not as it was written; nothing if all is well.
        """
        problems, name = self.ledger.verify(), f"base model {self.model}"
        try:
            source = resolve(self.model, self._revision)
        except ModelError as error:
            return [*problems, Problem(name, str(error))]
        if (found := full_sha256(source)) != self.ledger.model["sha256"]:
            text = f"its SHA-256 is {found[:12]}…, not {self.ledger.model['sha256'][:12]}…"
            problems.append(Problem(name, text))
        if not conversion_is_whole(source):
            text = (
                "its converted copy is not what was written: remove that folder, it is made again"
            )
            problems.append(Problem(str(source.folder), text))
        return problems

    def _session(self, config: Config, progress: Progress | None) -> Session:
        """The base model loaded as the config says, kept for the next call."""
        from corsa.models import load_source
        from corsa.session import Session

        progress = progress or Silent()
        if self._ledger is None and (self.path / "store.json").is_file():
            # Somebody else made the store since this one was opened: it may be of another model.
            self._ledger, self._session_kept = Ledger(self.path), None
        kept = self._session_kept
        if kept is not None and kept.serves(config):
            return kept.again(self._ledger, config, progress)
        progress.begin(f"loading {self.model}")
        source = self._find_base()
        model = load_source(source, config, trust_remote_code=self._trust_remote_code)
        self._session_kept = Session(model, self._ledger, config, progress)
        return self._session_kept

    def _chosen(self, round: int | None) -> Round:
        """A round by number, or the head's."""
        number = self.ledger.head if round is None else round
        if not number:
            raise StoreError(
                f"{self.path} at round 0 is the base model: there is no round to export"
            )
        return self.ledger.round(number)

    def _find_base(self) -> ModelSource:
        """The base model on this disk, which must be the one the store was made for."""
        source = resolve(self.model, self._revision, trust_remote_code=self._trust_remote_code)
        self._check_model(source)
        return source

    def _check_model(self, source: ModelSource) -> None:
        if self._ledger is not None and source.sha256 != self._ledger.model["sha256"]:
            raise StoreError(
                f"{self.model} is not the model {self.path} was made for (SHA-256 "
                f"{source.sha256[:12]}…, expected {self._ledger.model['sha256'][:12]}…): "
                "restore that model, or use a new store"
            )

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """What can go wrong in the middle of a round, said in one line."""
        from safetensors import SafetensorError  # what it makes of a full disk is no OSError

        try:
            yield
        except CorsaError:
            raise
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: the head is still round {self.head}; the same command goes on where "
                "this one stopped"
            ) from None
        except (OSError, SafetensorError) as error:
            where = getattr(error, "filename", None) or self.path
            raise StoreError(
                f"cannot write {where} ({getattr(error, 'strerror', None) or error}): the head is "
                f"still round {self.head}; make room or mend the permissions and run it again"
            ) from error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            raise TrainingError(
                f"out of memory ({str(error).splitlines()[0] if str(error) else 'no more'}): the head "
                f"is still round {self.head}; set a smaller micro_batch or batch_size"
            ) from error


def _read(edits: Edits, given_back: Sequence[Edit] = ()) -> Reading:
    if isinstance(edits, str | Path):
        reading = read_edits(edits)
        return edits_from_records([*reading.edits, *given_back]) if given_back else reading
    return edits_from_records([*edits, *given_back])
