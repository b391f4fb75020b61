"""Measures beside those of every round, taken once after a run's last round: `--extras NAME,NAME=FILE`.

To add one: a function from `Finished` to numbers by name, and a line in `EXTRAS`. The names become rows
of the tables and columns of nothing else; one that the store measures already is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from corsa.bench import curvature, fluency, general, harness, probabilities
from corsa.bench.code import humaneval
from corsa.bench.finished import Finished
from corsa.errors import UsageError
from corsa.metrics import Number

Extra = Callable[[Finished], Mapping[str, Number]]

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

# Those that run programs which the model wrote.
RUN_PROGRAMS = frozenset({"humaneval"})


def parse_extras(text: str) -> dict[str, str | None]:
    """Read `counterfact,wikitext=wiki.test.tokens`.

    Args:
        text: names, some with a file.

    Returns:
        The file by name.

    Raises:
        UsageError: if there is no measure of that name.
    """
    named = (part.strip().partition("=") for part in text.split(",") if part.strip())
    extras = {name: file or None for name, _, file in named}
    for name in extras:
        if name not in EXTRAS:
            there = ", ".join(EXTRAS)
            raise UsageError(f"there is no extra measure {name!r}: there are {there}")
    return extras
