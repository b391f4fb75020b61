"""The methods of a benchmark as typed: `corsa`, `corsa[sam=false]`, `paper:preset=paper`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corsa.config import Config, make_config
from corsa.errors import UsageError

_FORM = re.compile(
    r"(?:(?P<label>[^:=\[\]]+):)?"
    r"(?:(?P<setting>[^:=\[\]]+=[^\[\]]+)|(?P<method>[^:=\[\]]+)(?:\[(?P<settings>[^\[\]]*)\])?)"
)
_FORMS = "give NAME, NAME[key=value,...], key=value, or one of these as LABEL:..."

# What a round of code teaches is chosen beside the settings (`bench.code.domain`).
LESSONS: Mapping[str, tuple[str, ...]] = {
    "teach": ("examples", "docs", "both"),
    "rejected": ("today", "old"),
}

# What a setting of today was when it could not be set yet, where that was not off.
_BEFORE: Mapping[str, Any] = {"keep_tokens": 5, "solve_keep": 0.5}

# Methods that differ in these were not measured alike, or not on the same edits.
_OF_ALL = ("seed", "dtype", "device", "attention", "packing")


def as_recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config as the settings of today know it.

    Args:
        config: an earlier version may have written it.

    Returns:
        With every setting of today. One that came later counts as off, or as what it was then.
    """
    off = {name: type(value)() for name, value in Config().to_dict().items()}
    return {**off, **_BEFORE, **config}


# Of steps alone: a round whose answers are all written in closed form takes none.
_OF_STEPS = (
    *("sft", "sft_weight", "dpo", "beta", "projection", "sam", "rho", "ascent"),
    *("learning_rate", "stop", "epochs", "max_visits", "batch_size"),
)


@dataclass(frozen=True)
class Contender:
    """One method of a benchmark.

    Attributes:
        label: what tables call it.
        settings: what makes it, on top of what all methods share.
        typed: what `parse_methods` reads it from.
        lessons: what of an update it is taught; of code alone.
    """

    label: str
    settings: Mapping[str, Any]
    typed: str
    lessons: Mapping[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """The label as part of a file's name."""
        return re.sub(r"[^\w.+=,-]", "_", self.label)

    def config(self, shared: Mapping[str, Any], seed: int) -> Config:
        """All its settings.

        Args:
            shared: settings of all methods.
            seed: of this run.

        Returns:
            The config of every round.
        """
        return make_config({**shared, **self.settings, "seed": seed})

    def idle(self, shared: Mapping[str, Any]) -> list[str]:
        """Its own settings that change nothing unless a round is left with something to train.

        Args:
            shared: settings of all methods.

        Returns:
            Their names.
        """
        if not self.config(shared, 0).solve:
            return []
        return [name for name in _OF_STEPS if name in self.settings]


def parse_methods(text: str) -> tuple[Contender, ...]:
    """Read a list of methods; a comma inside brackets belongs to its method.

    Args:
        text: such as `corsa,lora,no-sam:corsa[sam=false],preset=paper`.

    Returns:
        The methods, in order.

    Raises:
        UsageError: if one cannot be read, or two would be written to one file.
    """
    parts = re.split(r",(?![^\[\]]*\])", text)
    contenders = tuple(_contender(part.strip()) for part in parts)
    refuse_same_files(contender.file_name for contender in contenders)
    return contenders


def refuse_same_files(file_names: Iterable[str]) -> None:
    """Refuse methods that would be written to one file.

    Args:
        file_names: of all methods of a benchmark.

    Raises:
        UsageError: if one comes twice.
    """
    for name, count in Counter(file_names).items():
        if count > 1:
            raise UsageError(f"{count} methods are called {name!r}: give them labels, LABEL:METHOD")


def _contender(text: str) -> Contender:
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"the method {text!r} cannot be read: {_FORMS}")
    label, setting, method, inside = match["label"], match["setting"], match["method"], None
    if setting is None:
        inside = match["settings"]
        settings: dict[str, Any] = {"method": method.strip()}
    else:
        settings, inside = {}, setting
    lessons: dict[str, str] = {}
    for pair in inside.split(",") if inside else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise UsageError(f"{pair!r} in the method {text!r} is not of the form key=value")
        if key == "method" and method:
            raise UsageError(
                f"{pair!r} in the method {text!r}: the method stands before the bracket"
            )
        if key in _OF_ALL:
            where = "--seeds" if key == "seed" else "--set"
            raise UsageError(f"{key} in the method {text!r} must be that of all: use {where}")
        if key not in LESSONS:
            settings[key] = value
        elif value in LESSONS[key]:
            lessons[key] = value
        else:
            raise UsageError(f"{pair!r}: {key} is one of {', '.join(LESSONS[key])}")
    make_config(settings)  # says what is wrong with a name or value before anything is loaded
    return Contender(label.strip() if label else text, settings, text, lessons)
