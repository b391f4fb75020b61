"""Measures beside those of every round, taken once after a run's last round: `--extras NAME,NAME=FILE`.

To add one: a function from `Finished` to numbers by name, and a line in `EXTRAS`. The names become rows
of the tables and columns of nothing else; one that the store measures already is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from corsa.bench import curvature, fluency, general, harness, probabilities
from corsa.bench.code import humaneval
from corsa.bench.finished import Finished
from corsa.errors import UsageError
from corsa.metrics import Number

Extra = Callable[[Finished], Mapping[str, Number]]
Reader = Callable[[Path | None], object]

EXTRAS: dict[str, Extra] = {
    "counterfact": probabilities.counterfact,
    "token-accuracy": probabilities.token_accuracy,
    "fluency": fluency.fluency,
    "wikitext": general.wikitext,
    "mmlu": general.mmlu,
    "curvature": curvature.curvature,
    "lm-eval": harness.harness,
    "humaneval": humaneval.humaneval,
}

# What of them is measured after every round, too, on that round's model and edits: columns of its row.
EACH_ROUND: dict[str, Extra] = {"curvature": curvature.round_sharpness}

# One line to stand beside the numbers: what was asked, and how.
PROTOCOLS: dict[str, str] = {
    "counterfact": probabilities.PROTOCOL,
    "token-accuracy": probabilities.PROTOCOL,
    "fluency": fluency.PROTOCOL,
    "wikitext": general.WIKITEXT_PROTOCOL,
    "mmlu": general.MMLU_PROTOCOL,
    "curvature": curvature.PROTOCOL,
    "lm-eval": harness.PROTOCOL,
    "humaneval": humaneval.PROTOCOL,
}

# What reads the file behind `NAME=FILE`, or what stands for it; the others take none.
READERS: dict[str, Reader] = {
    "wikitext": general.wikitext_of,
    "mmlu": general.questions_of,
    "lm-eval": harness.ready,
    "humaneval": humaneval.tasks_of,
}

# Those that run programs which the model wrote.
RUN_PROGRAMS = frozenset({"humaneval"})


def parse_extras(text: str) -> dict[str, str | None]:
    """Read `counterfact,wikitext=wiki.test.tokens`.

    Args:
        text: names, some with a file.

    Returns:
        The file by name.

    Raises:
        UsageError: if there is no measure of that name, or a file that it does not read.
    """
    named = (part.strip().partition("=") for part in text.split(",") if part.strip())
    extras = {name: file or None for name, _, file in named}
    for name in extras:
        if name not in EXTRAS:
            there = ", ".join(EXTRAS)
            raise UsageError(f"there is no extra measure {name!r}: there are {there}")
        if extras[name] and name not in READERS:
            raise UsageError(f"{name} reads no file: leave ={extras[name]} out")
    return extras


def check_files(extras: Mapping[str, str | None]) -> None:
    """Read what further measures will read: what is wrong with it is said before anything is trained.

    Args:
        extras: the file by name.

    Raises:
        UsageError: if a file cannot be read, or holds something else.
        ModelError: if the hub does not give what stands for one.
    """
    for name, file in extras.items():
        if name in READERS:
            READERS[name](Path(file) if file else None)
