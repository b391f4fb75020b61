"""What a round must reach before it is put into use: `--accept 'reliability>=0.95,leak<=0.05'`."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from corsa.errors import UsageError
from corsa.metrics import HEADLINES, headlines

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*")
# Nothing can be forgotten before there is an earlier round.
_VOID_AT_FIRST = {"forgetting", "bwt", "reversion"}


class Condition(NamedTuple):
    """One thing a round must reach."""

    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"


def parse_conditions(text: str) -> list[Condition]:
    """Read conditions as a user writes them.

    Args:
        text: conditions, separated by commas.

    Returns:
        One condition each.

    Raises:
        UsageError: if one cannot be read or names no metric.
    """
    conditions = []
    for part in text.split(","):
        found = _FORM.fullmatch(part)
        if found is None:
            raise UsageError(f"--accept {part.strip()!r} is not of the form 'reliability>=0.95'")
        metric, sign, bound = found.groups()
        if metric not in HEADLINES:
            near = get_close_matches(metric, HEADLINES, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(HEADLINES)}"
            raise UsageError(f"--accept names no metric {metric!r}; {hint}")
        try:
            conditions.append(Condition(metric, sign, float(bound)))
        except ValueError:
            raise UsageError(f"--accept {part.strip()!r}: {bound!r} is not a number") from None
    return conditions


def missed(conditions: Sequence[Condition], metrics: Mapping[str, Any]) -> list[str]:
    """Which conditions a round does not meet.

    Args:
        conditions: what was asked.
        metrics: the content of its `metrics.json`.

    Returns:
        One text per miss, with the value found.
    """
    values = headlines(metrics)
    first = len(metrics["retention"]["rounds"]) == 1
    misses = []
    for condition in conditions:
        value = values[condition.metric]
        if value is None and first and condition.metric in _VOID_AT_FIRST:
            continue
        if value is None:
            misses.append(f"{condition} (unknown: nothing measures it)")
        elif not _COMPARE[condition.sign](value, condition.bound):
            misses.append(f"{condition} (found {value:.3g})")
    return misses
