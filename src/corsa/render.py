"""How results look in a terminal. Facts are untrusted text: nothing of them is read as markup."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from corsa.words import Sentence, roughly

_STYLES = {"good": "green", "bad": "red", "plain": "default"}


class TerminalProgress:
    """Draws what goes on: a bar with time left in a terminal, lines where output goes to a file.

    Args:
        console: where to draw; standard error, so that standard output holds results alone.
    """

    # Seconds between two lines where there is no terminal.
    _EVERY = 10.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: Any = None
        self._name = ""
        self._done = 0
        self._said_at = 0.0

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        self.begin("starting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, task: str, total: int | None = None) -> None:
        """See `corsa.progress.Progress`."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(task, total=total, note="")
        self._name, self._done, self._total = task, 0, total
        self._started = self._said_at = time.monotonic()
        if not self._console.is_terminal:
            self._line(f"{task} …")

    def advance(self, count: int = 1, *, total: int | None = None, note: str = "") -> None:
        """See `corsa.progress.Progress`."""
        self._total = total or self._total
        self._done += count
        self._bars.update(self._task, advance=count, total=self._total, note=note)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said_at >= self._EVERY:
            self._said_at = now
            left = ""
            if self._total and self._done:
                rest = (now - self._started) / self._done * max(0, self._total - self._done)
                left = f", {roughly(rest)} left"
            self._line(f"{self._name}: {self._done}/{self._total or '?'} {note}{left}")

    def say(self, text: str) -> None:
        """See `corsa.progress.Progress`."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(_plain(text), highlight=False)


def update_report(metrics: Mapping[str, Any], sentences: Iterable[Sentence]) -> RenderableType:
    """A finished round: the answers before and after, and what to make of it.

    Args:
        metrics: the content of `metrics.json`.
        sentences: the same in words.

    Returns:
        Something rich can print.
    """
    table = _table("prompt", "before", "now", "")
    for edit in metrics["edits"]:
        mark = Text("✓", "green") if edit["right"] else Text("✗", "red")
        before, now = _plain(_short(edit["before"]), "dim"), _plain(_short(edit["answer"]))
        table.add_row(_plain(edit["prompt"]), before, now, mark)
    return Group(table, told(sentences))


def told(sentences: Iterable[Sentence]) -> RenderableType:
    """Sentences, one a line, their topic in front.

    Args:
        sentences: what to tell.

    Returns:
        Something rich can print.
    """
    grid = Table.grid(padding=(0, 2))
    last = ""
    for topic, text, tone in sentences:
        grid.add_row(Text(topic if topic != last else "", "bold"), _plain(text, _STYLES[tone]))
        last = topic
    return grid


def answers(rows: Sequence[Mapping[str, Any]], round_name: str) -> RenderableType:
    """Base and updated answers side by side.

    Args:
        rows: dicts with `prompt`, `base`, `updated`.
        round_name: heads the last column.

    Returns:
        Something rich can print.
    """
    table = _table("prompt", "base", round_name)
    for row in rows:
        table.add_row(_plain(row["prompt"]), _plain(row["base"], "dim"), _plain(row["updated"]))
    return table


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> RenderableType:
    """A plain table.

    Args:
        columns: its heads.
        rows: one sequence of cells each.

    Returns:
        Something rich can print.
    """
    table = _table(*columns)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else _plain(str(cell)) for cell in row))
    return table


def log(report: Mapping[str, Any]) -> RenderableType:
    """The rounds, oldest first; the one in use is marked.

    Args:
        report: what `Store.log` gives.

    Returns:
        Something rich can print.
    """
    table = _table(
        "", "round", "continues", "edits", "method", "when (UTC)", "right", "forgot", "leak"
    )
    for row in report["rounds"]:
        mark = "→" if row["round"] == report["head"] else "·" if row["in_use"] else ""
        numbers = row["metrics"]
        shown = [_share(numbers[name]) for name in ("reliability", "forgetting", "leak")]
        when = (row["created"] or "–")[:16].replace("T", " ")
        fixed = (mark, row["round"], row["parent"], row["edits"], row["method"], when)
        table.add_row(*map(str, fixed), *shown, style=None if row["in_use"] else "dim")
    return table


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def matrix(report: Mapping[str, Any], rounds: Sequence[int]) -> RenderableType:
    """A retention matrix in colour: one row for the model after each round.

    Args:
        report: with `matrix`, lower-triangular.
        rounds: the ids of rows and columns.

    Returns:
        Something rich can print.
    """
    table = _table("after round", *(f"edits of {k}" for k in rounds))
    for round_id, row in zip(rounds, report["matrix"], strict=True):
        table.add_row(str(round_id), *(_cell(value) for value in row))
    return table


def _cell(value: float | None) -> Text:
    if value is None:
        return Text("–", "dim")
    colour = (
        "white on green" if value >= 0.95 else "black on yellow" if value >= 0.7 else "white on red"
    )
    return Text(f" {100 * value:3.0f} % ", colour)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(_plain(column), overflow="fold")
    return table


def _plain(text: str, style: str = "") -> Text:
    """Text as it is: no markup, and no codes that a terminal would obey."""
    shown = "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
    return Text(shown, style)


def _short(text: str, limit: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
