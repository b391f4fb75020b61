"""Public data sets as edits: where each is, and how its rows are written.

A row is translated, never mended. What cannot be used is left out by name with the reason, and the
bench prints and stores that list. A file of one's own goes by the name `facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from corsa.bench.upstream import from_hub, rows
from corsa.edits import Edit
from corsa.errors import BadEditsError, UsageError
from corsa.files import sha256_file
from corsa.layouts import EASYEDIT, layout_of, to_native
from corsa.matching import normalise
from corsa.validation import Row, edit_from_record, edits_from_rows, short

# MEND writes it in front of every unrelated question; no user would.
_NQ = "nq question: "


class LeftOut(NamedTuple):
    """A record, or a probe of one, that is not used."""

    record: str
    why: str


class Translation(NamedTuple):
    """A row in the native names.

    Attributes:
        record: not yet validated.
        problems: why the row cannot be used at all.
        notes: what of it is left out.
        types: what its portability probes ask, by prompt, where the data set tells kinds apart.
    """

    record: dict[str, Any]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    types: Mapping[str, str] = MappingProxyType({})


class Dataset(NamedTuple):
    """A public data set.

    Attributes:
        about: one line for the table, true of every source.
        translate: a row of its file, and its place in it, in the native names.
        repository: on the Hugging Face hub; `None`: it must be given as a file.
        file: in that repository.
        multi_hop: portability probes ask one thing in several wordings: any right answer counts.
        code: its records are updates of libraries (`bench.code.domain` reads them), not edits.
    """

    about: str
    translate: Callable[[Mapping[str, Any], int], Translation]
    repository: str | None = None
    file: str = ""
    multi_hop: bool = False
    code: bool = False


class Loaded(NamedTuple):
    """The usable part of a file.

    Attributes:
        edits: in the order of the file.
        left_out: by name, with the reason.
        source: what was read: name, file, SHA-256, which records.
        types: what portability probes ask, by edit's id and normalised prompt, where the data set tells
            kinds apart.
    """

    edits: tuple[Edit, ...]
    left_out: tuple[LeftOut, ...]
    source: dict[str, Any]
    types: Mapping[tuple[str, str], str]


def load(name: str, data: Path | None = None, first: int = 0, last: int | None = None) -> Loaded:
    """Read a data set: the file given, or the one on the hub.

    Args:
        name: in `DATASETS`.
        data: a local file in the upstream layout; JSON, JSONL or parquet.
        first: place of the first record that may be used, from 0.
        last: place behind the last one; `None`: to the end.

    Returns:
        Its edits.

    Raises:
        UsageError: if there is no such data set or file, or nothing usable in it.
    """
    dataset = DATASETS.get(name)
    if dataset is None:
        raise UsageError(f"there is no data set {name!r}: choose from {', '.join(DATASETS)}")
    if dataset.code:
        raise UsageError(f"{name} holds updates of libraries: corsa bench {name} reads it")
    if data is None and dataset.repository is None:
        raise UsageError(f"{name!r} is a file of your own: say which with --data FILE")
    if last is not None and last <= first:
        raise UsageError(f"--to {last} must lie behind --from {first}: no record is between them")
    path = data or from_hub(str(dataset.repository), dataset.file, "--data FILE")
    placed = list(enumerate(rows(path)))[first:last]
    edits, left_out, types = _usable(placed, name)
    if not edits:
        why = f": {left_out[0].record}: {left_out[0].why}" if left_out else ""
        others = [other for other in DATASETS if placed and _fits(other, placed[0])]
        hint = f"; it reads as {' or '.join(others)}" if others else ""
        raise UsageError(
            f"{path} has no usable record from {first} to {last or 'its end'}{why}{hint}"
        )
    source = {
        "name": name,
        "file": path.name if data else f"{dataset.repository}/{dataset.file}",
        "sha256": sha256_file(path),
        "from": first,
        "to": last,
        "records": len(placed),
        "usable": len(edits),
    }
    return Loaded(tuple(edits), tuple(left_out), source, types)


def _usable(
    placed: list[tuple[int, Mapping[str, Any]]], name: str
) -> tuple[list[Edit], list[LeftOut], dict[tuple[str, str], str]]:
    """All records that can stand in one sample: faulty ones go, and of rivals the later one."""
    left_out: list[LeftOut] = []
    kept: list[Row] = []
    types: dict[tuple[str, str], str] = {}
    for place, row in placed:
        try:
            record, problems, notes, kinds = DATASETS[name].translate(row, place)
        except (KeyError, TypeError, AttributeError) as error:
            left_out.append(LeftOut(f"record {place}", f"is not in the layout of {name} ({error})"))
            continue
        where = f"record {place} ({record.get('id', 'no id')})"
        kept.append(Row(where, record, problems))
        types |= {(record["id"], normalise(prompt)): kind for prompt, kind in kinds.items()}
        left_out += [LeftOut(where, note) for note in notes]
    while kept:
        try:
            edits_from_rows(kept, "the data set")
            break
        except BadEditsError as error:
            faults = {fault.where: fault.what for fault in reversed(error.faults)}
        left_out += [LeftOut(row.where, faults[row.where]) for row in kept if row.where in faults]
        kept = [row for row in kept if row.where not in faults]
    # One by one: a probe must not go because it is the prompt of a record nobody draws.
    return [edit_from_record(row.value, row.where) for row in kept], left_out, types


def _fits(name: str, placed: tuple[int, Mapping[str, Any]]) -> bool:
    """Whether a record is in the layout of a data set of facts."""
    return not DATASETS[name].code and bool(_usable([placed], name)[0])


# --- Layouts --------------------------------------------------------------------------------------


def _as_it_is(row: Mapping[str, Any], place: int) -> Translation:
    """Native rows, CounterFact's and EasyEdit's: `corsa.layouts` knows them."""
    layout = layout_of(row)
    record, problems = to_native(row, layout)
    if layout is EASYEDIT:
        # In four of five records a prompt to go on from, whose right continuation is another.
        record.pop("paraphrases", None)
    return Translation({"id": f"record-{place}", **record}, tuple(problems))


def _zsre(row: Mapping[str, Any], place: int) -> Translation:
    """MEND's zsRE: `alt` is the target, `answers` are true, `loc` asks something unrelated."""
    true = list(row["answers"])
    record: dict[str, Any] = {
        "id": f"zsre-{place}",
        "prompt": row["src"],
        "target_new": row["alt"],
        "target_old": true[0] if true else None,
        "subject": row["subject"],
        "paraphrases": [row["rephrase"]],
        "locality": [{"prompt": row["loc"].removeprefix(_NQ), "answer": row["loc_ans"]}],
    }
    if follows := row.get("portability"):
        probe = {"prompt": follows["New Question"], "answer": follows["New Answer"]}
        record["portability"] = [probe]
    said = (
        [f"the target {short(row['alt'])} is one of the true answers"] if row["alt"] in true else []
    )
    return Translation(record, tuple(said))


def _mquake(row: Mapping[str, Any], place: int) -> Translation:
    """MQuAKE's cases of one rewrite; its questions are the portability probes.

    `case_id` is not unique, so the place in the file makes the id.

    Returns:
        The edit of the case, or why there is none.
    """
    record: dict[str, Any] = {"id": f"mquake-{place}"}
    rewrites = row["requested_rewrite"]
    if len(rewrites) != 1:
        return Translation(record, (f"has {len(rewrites)} rewrites; a round edits one fact each",))
    rewrite = rewrites[0]
    answers = [row["new_answer"], *row["new_answer_alias"]]
    return Translation(
        record
        | {
            "prompt": rewrite["prompt"].replace("{}", rewrite["subject"]),
            "target_new": rewrite["target_new"]["str"],
            "target_old": rewrite["target_true"]["str"],
            "subject": rewrite["subject"],
            "relation": rewrite["relation_id"],
            "paraphrases": [rewrite["question"]],
            "portability": [{"prompt": q, "answer": answers} for q in row["questions"]],
            "mquake_case": row["case_id"],
        }
    )


def _knowedit(row: Mapping[str, Any], place: int) -> Translation:
    """KnowEdit: `portability` and `locality` as lists by type, answers as text or lists of aliases.

    Where a question has several answers, each with its aliases, any of them is right.

    Returns:
        The edit, and the probes that cannot be used.
    """
    record: dict[str, Any] = {
        "id": f"knowedit-{place}",
        "prompt": row["prompt"],
        "target_new": row["target_new"],
        "target_old": row.get("ground_truth"),
        "subject": row["subject"],
    }
    notes = []
    types: dict[str, str] = {}
    for field in ("portability", "locality"):
        record[field] = []
        groups = (row.get(field) or {}).items()
        for kind, probe in ((kind, p) for kind, group in groups for p in group or ()):
            answers = list(_texts(probe["ground_truth"]))
            if not answers:
                notes.append(f"the {field} probe {short(probe['prompt'])} has no answer")
            elif normalise(probe["prompt"]) == normalise(row["prompt"]):
                notes.append(f"the {field} probe {short(probe['prompt'])} is the edit's own prompt")
            else:
                record[field].append({"prompt": probe["prompt"], "answer": answers})
                if field == "portability":
                    types.setdefault(probe["prompt"], kind)
    return Translation(record, (), tuple(notes), types)


def _texts(answer: Any) -> Iterator[str]:
    """The strings in a list of lists, or one alone; empty ones are none."""
    if isinstance(answer, str):
        yield from [answer] if answer.strip() else []
        return
    for item in answer:
        yield from _texts(item)


DATASETS: Mapping[str, Dataset] = {
    "counterfact": Dataset(
        "CounterFact (Meng et al. 2022)",
        _as_it_is,
        "azhx/counterfact",
        "data/test-00000-of-00001-bacb83500fca49a9.parquet",
    ),
    "zsre": Dataset(
        "zsRE, MEND's evaluation split (Mitchell et al. 2022)",
        _zsre,
        "wangzn2001/Model_Editing_Hurt",
        "training-data/zsre_mend_eval.json",
    ),
    "mquake": Dataset(
        "MQuAKE (Zhong et al. 2023; the hub's is Remastered CF-3k, 2025), cases of one rewrite",
        _mquake,
        "henryzhongsc/MQuAKE-Remastered",
        "data/CF3k-00000-of-00001.parquet",
        multi_hop=True,
    ),
    "knowedit-recent": Dataset(
        "KnowEdit's WikiRecent (Zhang et al. 2024); the hub's is the test split; gives no old answers",
        _knowedit,
        "zjunlp/KnowEdit",
        "benchmark/wiki_recent/recent_test.json",
    ),
    "knowedit-counterfact": Dataset(
        "KnowEdit's WikiCounterfact (Zhang et al. 2024); the hub's is the test split",
        _knowedit,
        "zjunlp/KnowEdit",
        "benchmark/wiki_counterfact/test_cf.json",
    ),
    "codeupdatearena": Dataset(
        "CodeUpdateArena (Liu et al. 2024): updates of libraries; programs are run; with --data",
        _as_it_is,
        code=True,
    ),
    "facts": Dataset("a facts file of your own, given with --data", _as_it_is),
}
