"""Scores of generated programs: pass@k and UPass@k, as pure functions of counts.

With n samples of a task of which c are right, the chance that k drawn without replacement hold a
right one is 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374), an unbiased estimate of
pass@k. It is one only for k ≤ n: beyond that the formula gives 1 whatever c is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from corsa.bench.code.testing import Verdict
from corsa.errors import UsageError
from corsa.metrics import Number, mean

# The benchmark's; those above the number of samples are left out.
KS = (1, 2, 5, 10)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that k of the samples, drawn without replacement, hold a right one.

    Args:
        samples: n, of one task.
        right: c of them.
        k: at most n.

    Returns:
        1 − C(n−c, k) / C(n, k).

    Raises:
        UsageError: if k is more than n, or c is no count of them.
    """
    if not 0 < k <= samples:
        raise UsageError(f"pass@{k} cannot be told from {samples} samples: ask for {k} or more")
    if not 0 <= right <= samples:
        raise UsageError(f"{right} of {samples} samples cannot be right")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def task_scores(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """The scores of one task.

    Args:
        verdicts: of its n samples.

    Returns:
        By name: `upass@k` (c: all tests pass with the update and not all without), `pass@k_new` (with),
        `pass@k_old` (without), `accuracy` (share of tests passed with the update, a mean over samples),
        `unsolved` (share of samples that pass neither only with it nor only without).
    """
    n = len(verdicts)
    by_update = sum(verdict.by_the_update for verdict in verdicts)
    only_old = sum(verdict.old is True and not verdict.passes for verdict in verdicts)
    scores: dict[str, float] = {}
    for k in (k for k in KS if k <= n):
        scores[f"upass@{k}"] = pass_at_k(n, by_update, k)
        scores[f"pass@{k}_new"] = pass_at_k(n, sum(v.passes for v in verdicts), k)
        scores[f"pass@{k}_old"] = pass_at_k(n, sum(v.old is True for v in verdicts), k)
    scores["accuracy"] = sum(sum(v.new) / len(v.new) for v in verdicts if v.new) / n
    scores["unsolved"] = (n - by_update - only_old) / n
    return scores


def averages(tasks: Iterable[Mapping[str, float]]) -> dict[str, Number]:
    """Means over tasks.

    Args:
        tasks: scores of each, with the same names.

    Returns:
        A mean by name; nothing for no task.
    """
    rows = list(tasks)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: mean(row[name] for row in rows if name in row) for name in names}
