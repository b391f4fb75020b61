"""One LoRA adapter, revised round after round: CoRSA and everything that is a setting of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from corsa.answerers import Answerer, ModelAnswerer
from corsa.chat import Exchange
from corsa.checkpoints import Checkpoints
from corsa.contrast import contrast_prompts, without_edited
from corsa.memory import remembered
from corsa.methods import Outcome, Task
from corsa.models import Adapter, BaseModel
from corsa.planning import PlannedEdit
from corsa.progress import Progress
from corsa.step import Example
from corsa.training import RoundTrainer, StepEvent

# Tokens of the base model's reply to a kept prompt that are trained on.
_KEPT_TOKENS = 8
# Prompts about other subjects that are made of each edit, to draw from.
_CONTRASTS = 6
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
    reference = adapter.name if config.reference == "incoming" and task.incoming else None
    examples, replay = _examples(task, reference, checkpoints)
    joining = [(replay, config.replay), *_kept_pools(task)]
    trainer = RoundTrainer(adapter, examples, config, joining)
    if saved := checkpoints.load():
        trainer.load_state(*saved)
        progress.say(f"going on after step {trainer.position.step} of the interrupted round")

    def on_step(event: StepEvent) -> None:
        task.on_step(event)
        progress.advance(total=event.expected_steps, note=_note(event))

    progress.begin("training", trainer._expected_steps())
    if trainer.position.step:
        progress.advance(trainer.position.step)
    with adapter.base.using(adapter.name):
        outcome = trainer.run(on_step, lambda: checkpoints.maybe_save(trainer.state))
        checkpoints.save(*trainer.state())
    return {
        "steps": outcome.steps,
        "converged": outcome.converged,
        "capped": outcome.steps >= trainer.cap and config.stop == "converged",
        "examples": len(examples),
        "replayed_from": len(replay),
        "modules": adapter.modules(),
        "packing": _packing(task.base),
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


def _examples(
    task: Task, reference: str | None, checkpoints: Checkpoints
) -> tuple[list[Example], list[Example]]:
    """The round's own examples, and earlier edits for replay; references are computed once."""
    gone = {key for planned in task.plan for key in planned.supersedes}
    # A repeated edit that is trained again needs no replay; one that is still right does.
    gone |= {planned.repeats for planned in task.plan if planned.repeats and planned.trained}
    earlier = [old for old in task.history if old.key not in gone] if task.config.replay else []
    own = [
        _example(task.base, planned, prompt)
        for planned in task.plan
        if planned.trained
        for prompt in (planned.edit.prompt, *planned.edit.train_paraphrases)
    ]
    # Earlier edits are remembered, not argued about: their y⁻ would double what a step costs.
    replay = [
        Example(task.base.chat.exchange(planned.edit.prompt, planned.edit.target_new))
        for planned in earlier
    ]
    if task.config.dpo:
        task.progress.begin("reference log-probabilities")
        sums = checkpoints.remember("reference", lambda: _reference_sums(task.base, own, reference))
        found = iter(sums)
        own = [_with_reference(example, found) for example in own]
    return own, replay


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


def pool_prompts() -> list[str]:
    """The packaged prompts that an edit must not change; none of them is measured.

    Returns:
        The prompts of `data/pool.jsonl`.
    """
    text = resources.files("corsa").joinpath("data/pool.jsonl").read_text("utf-8")
    return [json.loads(line)["prompt"] for line in text.split("\n") if line]


def _kept_pools(task: Task) -> list[tuple[list[Example], int]]:
    """What must stay as the base model answers it, with how many of it join every step."""
    config = task.config
    edits = [planned.edit for planned in task.plan if planned.trained]
    # What the base answers to an edited fact is outdated: it must not be trained back.
    edited = [planned.edit for planned in (*task.history, *task.plan)]
    own = list(dict.fromkeys(prompt for edit in edits for prompt in edit.keep))
    apart = contrast_prompts(edits, _CONTRASTS, config.seed) if config.contrast else []
    pool = pool_prompts() if config.keep_pool else []
    counts = (config.batch_size, config.contrast, config.keep_pool)
    if not edits or not config.keep_weight:
        return []
    return [
        (_kept(task.base, without_edited(prompts, edited), task.progress), count)
        for prompts, count in zip((own, apart, pool), counts, strict=True)
    ]


def _kept(base: BaseModel, prompts: Sequence[str], progress: Progress) -> list[Example]:
    """Prompts with the beginning of what the base model answers them."""
    if not prompts:
        return []

    def ask() -> list[tuple[int, ...]]:
        progress.begin("asking the base model what to keep", len(prompts))
        replies = ModelAnswerer(base).answers(prompts, _KEPT_TOKENS, progress=progress)
        return [reply.tokens for reply in replies]

    key = [*base.identity(), _KEPT_TOKENS, list(prompts)]
    return [
        Example(Exchange(base.chat.prompt_ids(prompt), tuple(tokens)), kept=True)
        for prompt, tokens in zip(prompts, remembered("kept", key, ask), strict=True)
    ]
