"""What an edit must not cost: plain text predicted as before, examination questions answered as before.

A few dozen windows and a few hundred questions: enough to see damage, not enough to compare two good
models. For that there is lm-evaluation-harness.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corsa.answerers import Answerer
from corsa.bench.finished import Finished, Numbers
from corsa.bench.upstream import from_hub, rows
from corsa.chat import Exchange
from corsa.errors import UsageError
from corsa.memory import remembered
from corsa.metrics import mean
from corsa.models import BaseModel
from corsa.sources import first_line

WINDOWS = 32
WINDOW_TOKENS = 256
PER_SUBJECT = 4
WIKITEXT_PROTOCOL = (
    f"{WINDOWS} windows of {WINDOW_TOKENS} tokens, evenly spaced over the file that is named, or "
    "WikiText-2's test split; plain text, no chat template; each window by itself, its first token given"
)
MMLU_PROTOCOL = (
    f"first {PER_SUBJECT} questions per subject; zero-shot, chat template; likeliest letter"
)
_LETTERS = "ABCD"


def wikitext(finished: Finished) -> Numbers:
    """Perplexity on WikiText-2 against the base model's, and how far the predictions moved.

    Perplexity is exp(−(1/T) Σ log p(t_i | t_<i)) over the T predicted tokens of all windows; the
    divergence is KL(base ‖ edited), a mean over the same T places, in nats. What adds text to
    questions and leaves the weights alone is not measured: plain text asks it nothing.

    Args:
        finished: the run.

    Returns:
        wikitext_ppl, wikitext_ppl_base, wikitext_ppl_ratio (edited / base) and wikitext_kl.
    """
    names = ("wikitext_ppl", "wikitext_ppl_base", "wikitext_ppl_ratio", "wikitext_kl")
    if finished.adapter is None:
        return dict.fromkeys(names)
    count, nll, nll_base, divergence = 0, 0.0, 0.0, 0.0
    for window in _windows(finished.base, wikitext_of(finished.data)):
        before = _predictions(finished.base, None, window)
        after = _predictions(finished.base, finished.adapter, window)
        targets = torch.tensor(window.answer, device=after.device)[:, None]
        count += len(targets)
        nll_base -= float(before.gather(1, targets).double().sum())
        nll -= float(after.gather(1, targets).double().sum())
        divergence += float(_kl(before, after))
    if not count:
        return dict.fromkeys(names)
    numbers = (nll / count, nll_base / count, (nll - nll_base) / count)
    values = (*map(math.exp, numbers), divergence / count)
    return {name: round(value, 6) for name, value in zip(names, values, strict=True)}


def mmlu(finished: Finished) -> Numbers:
    """Multiple choice (MMLU, Hendrycks et al. 2021): accuracy, and how many answers are others now.

    The answer is the likeliest of the four letters as the assistant's reply. Answers that change count
    whether they were right or not: a small model is right by chance, but its choices should stay.

    Args:
        finished: the run.

    Returns:
        mmlu and mmlu_base (accuracy), mmlu_flips (share of questions with another answer than the base),
        mmlu_base_commonest (share of the letter that the base gives most: near 1 the others say little).
    """
    asked = questions_of(finished.data)
    prompts = [_multiple_choice(row["question"], row["choices"]) for row in asked]
    right = [row["answer"] for row in asked]
    key = [*finished.base.identity(), MMLU_PROTOCOL, prompts]
    before = remembered("mmlu", key, lambda: _choices(finished.before, prompts))
    after = _choices(finished.after, prompts)
    return {
        "mmlu": mean(a == b for a, b in zip(after, right, strict=True)),
        "mmlu_base": mean(a == b for a, b in zip(before, right, strict=True)),
        "mmlu_flips": mean(a != b for a, b in zip(after, before, strict=True)),
        "mmlu_base_commonest": max(Counter(before).values()) / len(before),
    }


def _windows(base: BaseModel, text: str) -> Iterator[Exchange]:
    """Evenly spaced windows."""
    tokens = base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    count = min(WINDOWS, len(tokens) // WINDOW_TOKENS)
    for number in range(count):
        start = len(tokens) * number // count
        yield base.chat.passage(tokens[start : start + WINDOW_TOKENS])


@torch.no_grad()
def _predictions(base: BaseModel, adapter: str | None, window: Exchange) -> Tensor:
    """Log-probabilities of every token in every place, shape (T, V), nats."""
    with base.using(adapter):
        (logits,) = base.forward.logits([window])
    return logits.float().log_softmax(-1)


def _kl(before: Tensor, after: Tensor) -> Tensor:
    return torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum")


def _choices(answerer: Answerer, prompts: Sequence[str]) -> list[int]:
    """Index of the likeliest letter for each prompt."""
    found = answerer.logps(
        [prompt for prompt in prompts for _ in _LETTERS], [*_LETTERS] * len(prompts)
    )
    sums = torch.stack([logps.tokens[:-1].sum() for logps in found])  # without end-of-turn
    best: list[int] = sums.view(-1, len(_LETTERS)).argmax(1).tolist()
    return best


def _multiple_choice(question: str, choices: Sequence[str]) -> str:
    listed = "\n".join(f"{letter}. {c}" for letter, c in zip(_LETTERS, choices, strict=True))
    return f"{question.strip()}\n{listed}\nAnswer with one letter: A, B, C or D."


def _sample(questions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first questions of every subject, in the order of the file."""
    taken: dict[str, int] = defaultdict(int)
    sample = []
    for row in questions:
        taken[row["subject"]] += 1
        if taken[row["subject"]] <= PER_SUBJECT:
            sample.append(row)
    return sample


def wikitext_of(data: Path | None) -> str:
    """The text that is predicted.

    Args:
        data: the file given with `wikitext=FILE`; without it WikiText-2's test split.

    Returns:
        All of it.

    Raises:
        UsageError: if the file cannot be read.
        ModelError: if the hub does not give it.
    """
    if data is None:
        file = "wikitext-2-v1/test-00000-of-00001.parquet"
        path = from_hub("Salesforce/wikitext", file, "wikitext=FILE")
        return "".join(row["text"] for row in rows(path))
    try:
        return data.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{data} cannot be read: {first_line(error)}") from error


def questions_of(data: Path | None) -> list[Mapping[str, Any]]:
    """The questions that are asked.

    Args:
        data: the file given with `mmlu=FILE`; without it MMLU's test split.

    Returns:
        The first of each subject.

    Raises:
        UsageError: if the file cannot be read, or is not in MMLU's layout.
        ModelError: if the hub does not give it.
    """
    path = data or from_hub("cais/mmlu", "all/test-00000-of-00001.parquet", "mmlu=FILE")
    try:
        asked = _sample(rows(path))
        for row in asked:
            _multiple_choice(row["question"], row["choices"])
            _LETTERS[row["answer"]]
    except UsageError:  # that it cannot be read
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path} is not in MMLU's layout ({type(error).__name__}: {first_line(error)}): a record "
            "has subject, question, four choices, and answer from 0 to 3"
        ) from error
    if not asked:
        raise UsageError(f"{path} holds no questions: give another file with mmlu=FILE")
    return asked
