"""The measures that a benchmark may take beside a round's own examination, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from corsa.bench import fluency, general, probabilities
from corsa.bench.edited import Edited, Numbers

EXTRAS: Mapping[str, Callable[[Edited], Numbers]] = {
    "counterfact": probabilities.counterfact,
    "token-accuracy": probabilities.token_accuracy,
    "fluency": fluency.fluency,
    "wikitext": general.wikitext,
    "mmlu": general.mmlu,
}

# One line to stand beside the numbers: what was asked, and how.
PROTOCOLS: Mapping[str, str] = {
    "counterfact": probabilities.PROTOCOL,
    "token-accuracy": probabilities.PROTOCOL,
    "fluency": fluency.PROTOCOL,
    "wikitext": general.WIKITEXT_PROTOCOL,
    "mmlu": general.MMLU_PROTOCOL,
}
