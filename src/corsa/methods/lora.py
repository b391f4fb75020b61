"""One LoRA adapter, revised round after round: CoRSA and everything that is a setting of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from corsa.answerers import Answerer, ModelAnswerer
from corsa.beginning import Own, neurons, solve
from corsa.checkpoints import Checkpoints
from corsa.company import Company
from corsa.edits import Edit
from corsa.methods import Outcome, Task
from corsa.models import Adapter, BaseModel
from corsa.null_space import taken
from corsa.planning import PlannedEdit
from corsa.step import Example
from corsa.training import RoundTrainer, StepEvent

_TRAINED = "round"
_READ = "read"


class Lora:
    """Trains an adapter; the adapter of the parent round is continued."""

    kind = "lora"

    def edit(self, task: Task) -> Outcome:
        """Train until every edit is right, or the cap.

        Args:
            task: the round; the round it continues holds an adapter, too.

        Returns:
            The adapter, the model with it, and how training went.
        """
        if task.incoming is None:
            adapter = task.base.new_adapter(_TRAINED, task.config)
        else:
            adapter = task.base.load_adapter(_TRAINED, task.incoming.folder)
        try:
            training = train(adapter, task)
        except BaseException:
            adapter.drop()
            raise
        answerer = ModelAnswerer(task.base, adapter.name)
        return Outcome(self.kind, answerer, adapter.save, adapter.drop, training)

    def open(self, base: BaseModel, folder: Path) -> tuple[Answerer, Callable[[], None]]:
        """Attach a saved adapter.

        Args:
            base: the model.
            folder: where it is.

        Returns:
            The model with it, and what detaches it.
        """
        adapter = base.load_adapter(f"{_READ}-{folder.name}", folder)  # two rounds may be open
        return ModelAnswerer(base, adapter.name), adapter.drop


def train(adapter: Adapter, task: Task) -> dict[str, Any]:
    """Train an adapter on a round.

    Args:
        adapter: what is trained.
        task: the round.

    Returns:
        How training went; plain data, no times.
    """
    config, progress = task.config, task.progress
    checkpoints = Checkpoints(task.workplace)
    examples = [_example(task.base, planned, prompt) for planned, prompt in _trained(task)]
    incoming = config.reference == "incoming" and task.incoming is not None
    if incoming:  # before anything is written into it
        examples = _with_references(task, examples, adapter.name, checkpoints)
    earlier = _earlier(task)
    trained = _trained(task)
    own = [planned.edit for planned, _ in trained]
    edited = [planned.edit for planned in (*task.history, *task.plan)]
    company = Company(task.base, own, earlier, edited, config, progress)
    remembered = [
        Example(task.base.chat.exchange(edit.prompt, edit.target_new))
        for edit in (earlier if config.remember and config.replay else ())
    ]
    # Layers with neurons are not trained, so that these stay what they are and others find room.
    given = neurons(adapter, config, examples[0].chosen) if examples else []
    # Of the adapter as the round found it, also in a round that goes on after an interruption.
    held = [
        task.base.chat.exchange(prompt, edit.target_new)
        for edit in earlier
        for prompt in (edit.prompt, *edit.train_paraphrases)
    ]
    keeps = held and config.null_space
    directions = taken(adapter, held, config.null_space, progress, given) if keeps else {}
    trainer = RoundTrainer(adapter, examples, config, company, remembered, given, directions)
    if saved := checkpoints.load():
        trainer.load_state(*saved)
        progress.say(f"going on after step {trainer.position.step} of the interrupted round")
    asked = [Own(p, example) for (_, p), example in zip(trained, examples, strict=True)]
    with adapter.base.using(adapter.name):
        if config.solve and not saved and asked:
            trainer.look()
            trainer.position.solved = solve(
                adapter, asked, company, config, progress, checkpoints.remember
            )
            checkpoints.save(*trainer.state())
        # A round that began in closed form may be done before its first step.
        begun = trainer.position.solved is not None and not trainer.position.step
        done = begun and config.stop == "converged" and trainer.done_already()

    def on_step(event: StepEvent) -> None:
        task.on_step(event)
        progress.advance(total=event.expected_steps, note=_note(event))

    if not done:
        if not incoming:
            trainer.examples = _with_references(task, examples, None, checkpoints)
        company.ask()
        progress.begin("training", trainer._expected_steps())
        if trainer.position.step:
            progress.advance(trainer.position.step)
    with adapter.base.using(adapter.name):
        if not done:
            trainer.run(on_step, lambda: checkpoints.maybe_save(trainer.state))
            checkpoints.save(*trainer.state())
        outcome = trainer.outcome()
    return {
        "solved": outcome.position.solved,
        "steps": outcome.steps,
        "converged": outcome.converged,
        "capped": outcome.steps >= trainer.cap and config.stop == "converged",
        "examples": len(examples),
        "replayed_from": len(earlier) if config.replay else 0,
        "modules": adapter.modules(),
        "packing": _packing(task.base),
        "train_dtype": task.base.train_dtype(config.train_dtype),
        "history": outcome.position.history,
    }


def _packing(base: BaseModel) -> str:
    """How batches were built, and why; numbers of a probe are left out: they differ by machine."""
    rule = base.forward.rule
    return "batches packed as prefix trees" if rule.windows else f"batches padded: {rule.reason}"


def _note(event: StepEvent) -> str:
    loss = " ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
    margin = "" if event.margin is None else f" · margin {event.margin:+.1f}"
    return f"step {event.step} · loss {loss}{margin} · right {event.right}/{event.edits}"


def _trained(task: Task) -> list[tuple[PlannedEdit, str]]:
    """The prompts a round trains on, with their edits."""
    return [
        (planned, prompt)
        for planned in task.plan
        if planned.trained
        for prompt in (planned.edit.prompt, *planned.edit.train_paraphrases)
    ]


def _earlier(task: Task) -> list[Edit]:
    """Earlier edits that hold: for replay, what is written beside them, directions they have taken."""
    gone = {key for planned in task.plan for key in planned.supersedes}
    # A repeated edit that is trained again needs no replay; one that is still right does.
    gone |= {planned.repeats for planned in task.plan if planned.repeats and planned.trained}
    config = task.config
    standing = task.history if config.replay or config.solve or config.null_space else []
    return [old.edit for old in standing if old.key not in gone]


def _with_references(
    task: Task, own: list[Example], reference: str | None, checkpoints: Checkpoints
) -> list[Example]:
    """The round's own examples with what DPO's reference says of them; computed once."""
    if not task.config.dpo:
        return own
    task.progress.begin("reference log-probabilities")
    sums = checkpoints.remember("reference", lambda: _reference_sums(task.base, own, reference))
    found = iter(sums)
    return [_with_reference(example, found) for example in own]


def _example(base: BaseModel, planned: PlannedEdit, prompt: str) -> Example:
    chosen = base.chat.exchange(prompt, planned.edit.target_new)
    if planned.already_said or planned.target_old is None:
        return Example(chosen)
    return Example(chosen, base.chat.exchange(prompt, planned.target_old))


def _reference_sums(
    base: BaseModel, examples: Sequence[Example], adapter: str | None
) -> list[list[float]]:
    """For each pair log p(y⁺|x) and log p(y⁻|x), summed, under the reference; it never changes."""
    paired = [example for example in examples if example.rejected is not None]
    exchanges = [e for ex in paired for e in (ex.chosen, ex.rejected) if e is not None]
    with base.using(adapter):
        sums = [float(score.tokens.sum()) for score in base.forward.score(exchanges)]
    return [[plus, minus] for plus, minus in zip(sums[::2], sums[1::2], strict=True)]


def _with_reference(example: Example, found: Iterator[Sequence[float]]) -> Example:
    if example.rejected is None:
        return example
    plus, minus = next(found)
    return example._replace(reference=(plus, minus))
