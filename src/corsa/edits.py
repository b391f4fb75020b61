"""What a user wants changed: `Edit` and the `Probe`s that measure it, frozen and validated.

Of an edit's fields, `paraphrases`, `locality` and `portability` are the exam: they are measured and
never trained on. What may be trained on beside the prompt has fields of its own:
`train_paraphrases` and `keep`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from corsa.errors import UsageError
from corsa.matching import exact, normalise


@dataclass(frozen=True)
class Probe:
    """A prompt that is measured, and the answers that would be right (none: only change counts)."""

    prompt: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edit:
    """One fact that changed: `prompt` is to be answered with `target_new`.

    Attributes:
        prompt: the question or sentence prefix.
        target_new: y⁺, the answer that is right now.
        id: unique within its round; a hash of prompt and target where the user gave none.
        target_old: y⁻, the outdated answer; `None`: what the current model answers.
        subject: what the fact is about.
        paraphrases: other wordings of `prompt`, measured only (generality).
        train_paraphrases: other wordings of `prompt` that are trained on.
        keep: prompts whose answers must stay as they are; trained on.
        locality: prompts that the edit must not change, measured only.
        portability: prompts that follow from the edit, measured only.
        verbatim: whether replies are compared with `target_new` as it is written, case and all; `None`:
            if it is a code block or has three lines or more.
        metadata: every other column of the user's file, unread except `relation`.
    """

    prompt: str
    target_new: str
    id: str = ""
    target_old: str | None = None
    subject: str | None = None
    paraphrases: tuple[str, ...] = ()
    train_paraphrases: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    verbatim: bool | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if taken := sorted(self.metadata.keys() & set(FIELDS)):
            raise UsageError(f"metadata must not be named like a field of the edit: {taken}")
        if not self.id:
            object.__setattr__(self, "id", default_id(self.prompt, self.target_new))

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """What makes two edits speak of the same fact: its prompt, or its subject and relation."""
        relation = self.metadata.get("relation")
        by_prompt = ("prompt", normalise(self.prompt))
        if self.subject and isinstance(relation, str) and relation:
            return (by_prompt, ("fact", normalise(self.subject), normalise(relation)))
        return (by_prompt,)

    def same_fact(self, other: Edit) -> bool:
        """Whether two edits are of the same fact: by `keys`, or as one trains on a wording of the other.

        Args:
            other: the other edit.

        Returns:
            Whether they do.
        """
        if set(self.keys) & set(other.keys):
            return True
        return any(
            {normalise(text) for text in (one.prompt, *one.train_paraphrases)}
            & {normalise(t) for t in (two.prompt, *two.train_paraphrases, *two.paraphrases)}
            for one, two in ((self, other), (other, self))
        )

    def is_right(self, reply: str) -> bool:
        """Whether a reply is the new answer (`matching.exact`).

        Args:
            reply: the whole of it.

        Returns:
            Whether it is.
        """
        return exact(reply, self.target_new, self.verbatim)

    def to_record(self) -> dict[str, Any]:
        """The native record of this edit: what `edits.jsonl` holds.

        Returns:
            A dict that can be written as JSON and read back by `corsa.readers`.
        """
        record: dict[str, Any] = {
            "id": self.id,
            "prompt": self.prompt,
            "target_new": self.target_new,
        }
        if self.target_old is not None:
            record["target_old"] = self.target_old
        if self.subject is not None:
            record["subject"] = self.subject
        for name in ("paraphrases", "train_paraphrases", "keep"):
            if values := getattr(self, name):
                record[name] = list(values)
        for name in ("locality", "portability"):
            if probes := getattr(self, name):
                record[name] = [_probe_record(probe) for probe in probes]
        if self.verbatim is not None:
            record["verbatim"] = self.verbatim
        return record | dict(self.metadata)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Edit:
        """Read back what `to_record` wrote; nothing is checked, what users write is `readers`' work.

        Args:
            record: a native record.

        Returns:
            The edit.
        """
        known: dict[str, Any] = {name: record[name] for name in FIELDS if name in record}
        for name in ("paraphrases", "train_paraphrases", "keep"):
            known[name] = tuple(known.get(name, ()))
        for name in ("locality", "portability"):
            known[name] = tuple(_read_probe(probe) for probe in known.get(name, ()))
        return cls(**known, metadata={k: v for k, v in record.items() if k not in FIELDS})


FIELDS = tuple(entry.name for entry in fields(Edit) if entry.name != "metadata")


def default_id(prompt: str, target_new: str) -> str:
    """A short id that depends on the edit alone, so that equal files get equal ids.

    Returns:
        `e` and ten hexadecimal digits.
    """
    digest = hashlib.sha256(f"{normalise(prompt)}\n{target_new}".encode()).hexdigest()
    return f"e{digest[:10]}"


def _probe_record(probe: Probe) -> dict[str, Any]:
    if not probe.answers:
        return {"prompt": probe.prompt}
    answers = list(probe.answers)
    return {"prompt": probe.prompt, "answer": answers[0] if len(answers) == 1 else answers}


def _read_probe(record: Mapping[str, Any]) -> Probe:
    answer = record.get("answer", ())
    return Probe(record["prompt"], (answer,) if isinstance(answer, str) else tuple(answer))
