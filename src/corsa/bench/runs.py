"""One finished run - a method under one seed - as a small file, with every reply beside it.

A run's numbers are those of its store: after each round the round's own edits and what is retained of
earlier ones, and after the last round all edits that hold, with all their probes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corsa.bench.overlap import overlap
from corsa.files import json_lines, seal, unseal, write_atomically
from corsa.ledger import Ledger, Round
from corsa.matching import normalise
from corsa.metrics import (
    Number,
    Score,
    by_edit,
    headlines,
    leak_any,
    mean,
    of_kind,
    score_from_record,
    summary,
)

# What of a round's numbers is no number to be averaged over seeds.
_NO_NUMBERS = ("edits", "forgotten", "protocol", "training", "sha256", "rounds")


def collect(
    ledger: Ledger, *, multi_hop: bool, types: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """What a finished store says about its method.

    Args:
        ledger: its rounds; the last one was measured in full.
        multi_hop: whether an edit's portability probes ask one thing in several wordings.
        types: what portability probes ask, by edit's id and normalised prompt.

    Returns:
        Plain data: `final`, `rounds`, `matrix`, `edits`, `protocol`.
    """
    line = ledger.lineage(ledger.head)
    seconds = {e["round"]: e["seconds"] for e in ledger.journal() if e["event"] == "round"}
    scored = {made.id: _scores(made) for made in line}
    rounds = [_round_row(made, scored[made.id], seconds.get(made.id, {})) for made in line]
    numbers, scores = line[-1].metrics(), scored[line[-1].id]
    edits = {planned.key: planned.edit for made in line for planned in made.edits()}
    matrix = {kind: numbers["retention"][kind]["matrix"] for kind in ("reliability", "generality")}
    last = matrix["reliability"][-1]
    final = {
        **headlines(numbers),
        "newest.reliability": last[-1],
        "earlier.lowest": min((v for v in last[:-1] if v is not None), default=None),
        **flat(numbers),
        **overlap(scores, edits),
        "steps": _total(row["steps"] for row in rounds),
        "converged": mean(row["converged"] for row in rounds),
        **{f"seconds.{part}": _total(r["seconds"][part] for r in rounds) for part in _PARTS},
    }
    if multi_hop:
        final["multi_hop"] = mean(map(_any_contains, _probes_by_edit(scores).values()))
    asked = of_kind(scores, "portability")
    for kind in sorted(set(types.values())):
        chosen = [
            score for score in asked if types.get((score.edit_id, normalise(score.prompt))) == kind
        ]
        final[f"portability.{kind}"] = mean(by_edit(chosen, lambda s: s.contains))
    return {
        "final": final,
        "rounds": rounds,
        "matrix": matrix,
        "edits": _edit_rows(scores, _at_first(scored, line[-1].id)),
        "protocol": numbers["protocol"],
    }


_PARTS = ("plan", "train", "measure")


def _round_row(
    made: Round, scores: Sequence[Score], seconds: Mapping[str, float]
) -> dict[str, Any]:
    numbers, training = made.metrics(), made.metrics()["training"]
    own = [score for score in scores if score.round in (made.id, 0)]
    row = {**summary(own, {}), "retention": numbers["retention"]}
    return {
        "round": made.id,
        **headlines(row),
        **flat(row),
        "leak_any": leak_any([*own, *of_kind(scores, "edit")]),
        "steps": training.get("steps"),
        "converged": training.get("converged"),
        "seconds": {part: seconds.get(part) for part in _PARTS},
    }


def flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, Number]:
    """Nested numbers under dotted names, such as `drift.kept_knowledge`.

    Args:
        numbers: the content of a `metrics.json`, or a part of it.
        prefix: of all names.

    Returns:
        The numbers; texts and lists are left out.
    """
    found: dict[str, Number] = {}
    for name, value in numbers.items():
        if not prefix and name in _NO_NUMBERS:
            continue
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, int | float):
            found[f"{prefix}{name}"] = value
    return found


def _scores(made: Round) -> list[Score]:
    return [score_from_record(record) for record in made.generations()]


def _total(values: Iterable[Number]) -> Number:
    there = [value for value in values if value is not None]
    return round(sum(there), 2) if there else None


def _probes_by_edit(scores: Sequence[Score]) -> dict[tuple[int, str], list[Score]]:
    probes: dict[tuple[int, str], list[Score]] = {}
    for score in of_kind(scores, "portability"):
        probes.setdefault((score.round, score.edit_id), []).append(score)
    return probes


def _any_contains(probes: Sequence[Score]) -> float:
    """MQuAKE's rule: a case is right if any of its questions is answered (Zhong et al. 2023)."""
    return float(any(probe.contains for probe in probes))


def _at_first(scored: Mapping[int, Sequence[Score]], newest: int) -> dict[tuple[int, str], bool]:
    """Whether each edit was right after its own round, but for the newest round's."""
    return {
        (made, score.edit_id): bool(score.exact)
        for made, scores in scored.items()
        for score in of_kind(scores, "edit")
        if score.round == made != newest
    }


def _edit_rows(
    scores: Sequence[Score], at_first: Mapping[tuple[int, str], bool]
) -> list[dict[str, Any]]:
    """How each edit stands at the end: what tests over edits and margin figures are made of."""
    probes: dict[tuple[int, str], list[Score]] = {}
    for score in scores:
        probes.setdefault((score.round, score.edit_id), []).append(score)
    return [
        {
            "round": edit.round,
            "id": edit.edit_id,
            "reliability": float(bool(edit.exact)),
            # Its mean is backward transfer, where rounds are as large as each other.
            "bwt": _since(edit, at_first),
            "generality": _of(probes[edit.round, edit.edit_id], "paraphrase", "exact"),
            "leak": _of(probes[edit.round, edit.edit_id], "locality", "leak"),
            "agreement": _of(probes[edit.round, edit.edit_id], "locality", "agrees"),
            "kept_knowledge": _of(
                _base_right(probes[edit.round, edit.edit_id]), "locality", "contains"
            ),
            "portability": _of(probes[edit.round, edit.edit_id], "portability", "contains"),
            "margin": edit.margin,
            "base_margin": edit.base_margin,
            "base_gives_old": edit.base_old,
        }
        for edit in of_kind(scores, "edit")
    ]


def _since(edit: Score, at_first: Mapping[tuple[int, str], bool]) -> Number:
    was = at_first.get((edit.round, edit.edit_id))
    return None if was is None else float(bool(edit.exact)) - was


def _base_right(probes: Sequence[Score]) -> list[Score]:
    return [probe for probe in probes if probe.base_contains]


def _of(probes: Sequence[Score], kind: str, value: str) -> Number:
    return next(iter(by_edit(of_kind(probes, kind), lambda score: getattr(score, value))), None)


def replies(ledger: Ledger, method: str, seed: int) -> list[dict[str, Any]]:
    """Every reply of every round, so that anybody can score again by another rule.

    Args:
        ledger: a finished store.
        method: the method's label.
        seed: the run's.

    Returns:
        Lines of `generations.jsonl`; the packaged questions have kind "drift" and round 0.
    """
    return [
        {
            "seed": seed,
            "method": method,
            "after_round": made.id,
            "edit_round": score.round,
            "edit_id": score.edit_id,
            "kind": score.kind,
            "prompt": score.prompt,
            "reply": score.reply,
            "base_reply": score.base_reply,
            "target_new": score.target_new,
            "target_old": score.target_old,
            "answers": list(score.answers),
        }
        for made in ledger.lineage(ledger.head)
        for score in _scores(made)
    ]


# --- Files ----------------------------------------------------------------------------------------


class Runs:
    """The finished runs of a benchmark, `runs/METHOD-SEED.json` with `.jsonl` beside each.

    Args:
        folder: the benchmark's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"

    def path(self, name: str, seed: int) -> Path:
        """Where a run is.

        Args:
            name: the method's, as part of a file's name.
            seed: the run's.

        Returns:
            The file, which exists once the run is finished.
        """
        return self.folder / f"{name}-seed{seed}.json"

    def any(self) -> bool:
        """Whether a run is finished.

        Returns:
            Whether there is a file of one.
        """
        return any(self.folder.glob("*.json"))

    def write(self, name: str, run: Mapping[str, Any], generations: list[dict[str, Any]]) -> None:
        """Put a finished run down; its own file comes last and stands for all of it.

        Args:
            name: the method's, as part of a file's name.
            run: plain data, with `seed`.
            generations: every reply.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(name, run["seed"])
        write_atomically(path.with_suffix(".jsonl"), json_lines(generations))
        write_atomically(path, seal(run))

    def read(self, name: str, seed: int) -> dict[str, Any] | None:
        """A finished run.

        Args:
            name: the method's, as part of a file's name.
            seed: the run's.

        Returns:
            What was written; `None` if it is not finished.
        """
        path = self.path(name, seed)
        return unseal(path) if path.exists() else None

    def generations(self, name: str, seed: int) -> Iterator[dict[str, Any]]:
        """Every reply of a finished run.

        Args:
            name: the method's, as part of a file's name.
            seed: the run's.

        Yields:
            Plain data.
        """
        with self.path(name, seed).with_suffix(".jsonl").open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
