"""Finished runs as small files that may be shared: numbers and how they came about, no prompt, no reply.

A data set's records stay where they are. A small file names them by id and says which file they are
from, so that its command makes the run again; its `edits` are columns of numbers, for paired tests.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corsa.bench.contenders import as_recorded, parse_methods
from corsa.bench.datasets import DATASETS
from corsa.bench.runs import Runs
from corsa.config import METHODS
from corsa.errors import StoreError, UsageError
from corsa.files import seal, unseal, write_atomically
from corsa.sources import EMBEDDED

# What was asked for and must be alike for runs to stand in one table.
_ALIKE = ("dataset", "rounds", "edits", "known_only", "neighbours", "model")
# What of a run's protocol may differ: it follows the draw, or is said beside the numbers.
_MAY_DIFFER = ("max_new_tokens", "versions")
_ASKED = (*_ALIKE, "extras", "extra_files", "extra_protocols", "settings")
# What `--code` does not say.
_OF_CODE = {"reset": "--reset", "unsafe": "--unsafe-no-sandbox"}


def small_files(bench: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The finished runs of a bench folder, without anything of the data set but ids.

    Args:
        bench: what `corsa bench --out` wrote.

    Yields:
        The name of a file, and its content.

    Raises:
        StoreError: if there is no benchmark, or one begun by a version that did not note its settings.
    """
    path = bench / "bench.json"
    if not path.exists():
        raise StoreError(f"{bench} holds no benchmark: give the --out of a corsa bench")
    record = unseal(path)
    if "settings" not in record:
        raise StoreError(
            f"{path} does not say by which --set it was made: give its command again with --resume, "
            "which makes nothing anew and notes it"
        )
    runs = Runs(bench)
    for method in record["methods"]:
        for seed in record["seeds"]:
            run = runs.read(method["file_name"], seed)
            if run is not None:
                yield f"{method['file_name']}-seed{seed}.json", _small(record, method, run)


def _small(
    record: Mapping[str, Any], method: Mapping[str, Any], run: Mapping[str, Any]
) -> dict[str, Any]:
    asked = {name: record[name] for name in _ASKED if name in record}
    # A run may have been made without a measure that failed; earlier versions noted none.
    without = record["extras"].keys() - set(run.get("measures", record["extras"]))
    for part in {"extra_files", "extra_protocols"} & asked.keys():
        asked[part] = {name: v for name, v in record[part].items() if name not in without}
    asked["model"] = {**record["model"], "name": _without_folders(record["model"]["name"])}
    asked["extras"] = {
        name: file and Path(file).name
        for name, file in record["extras"].items()
        if name not in without
    }
    if DATASETS[record["dataset"]["name"]].code:
        asked["code"] = record["code"]
    draw = run["draw"]
    return {
        "asked": asked,
        "typed": method["typed"],
        "command": command(asked, [method["typed"]], [run["seed"]]),
        "unusable_records": len(record["left_out"]),
        "run": {
            **{name: value for name, value in run.items() if name not in ("sha256", "edits")},
            "draw": {
                "drawn": draw["drawn"],
                "kept": draw["kept"],
                # What these say quotes the records.
                "warnings": len(draw["warnings"]),
                "left_out": [entry["record"] for entry in draw.get("left_out", ())],
            },
        },
        "edits": {name: [edit[name] for edit in run["edits"]] for name in run["edits"][0]},
    }


def _without_folders(model: str) -> str:
    path = Path(model)
    return path.name if path.is_absolute() or path.exists() else model


def command(
    asked: Mapping[str, Any], methods: Sequence[str], seeds: Sequence[int], out: str = "compared"
) -> str:
    """The command that makes runs again; files are given by their names alone.

    Args:
        asked: of a small file.
        methods: as typed.
        seeds: of the runs.
        out: the folder it writes.

    Returns:
        One line for a shell.
    """
    data, model = asked["dataset"], asked["model"]
    words = ["corsa", "bench", data["name"]]
    if "/" not in data["file"]:
        words += ["--data", data["file"]]
    words += ["--methods", ",".join(methods), "--rounds", asked["rounds"]]
    words += ["--edits", asked["edits"], "--seeds", ",".join(map(str, seeds))]
    words += ["--from", data["from"]] if data["from"] else []
    given = {
        "--to": data["to"],
        "--neighbours": asked["neighbours"],
        "--model": None if model["name"] == EMBEDDED else model["name"],
        "--revision": model["revision"] if "/" in model["name"] else None,
        "--extras": ",".join(f"{k}={v}" if v else k for k, v in asked["extras"].items()) or None,
    }
    for name, value in given.items():
        words += [] if value is None else [name, value]
    words += ["--known-only"] if asked["known_only"] else []
    code = dict(asked.get("code", {}))
    words += [flag for name, flag in _OF_CODE.items() if code.pop(name, False)]
    words += ["--code", ",".join(f"{name}={count}" for name, count in code.items())] if code else []
    for name, value in asked["settings"].items():
        words += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join(map(str, [*words, "--out", out]))


def publish(
    bench: Path, results: Path, *, into: str | None = None, replace: bool = False
) -> tuple[list[Path], list[Path]]:
    """Copy the finished runs of a bench folder as small files.

    Args:
        bench: what `corsa bench --out` wrote.
        results: where folders of small files are kept.
        into: the folder's name; `None`: the data set's.
        replace: write over a run of the same name that has other numbers.

    Returns:
        The files that are new, and those that were there already.

    Raises:
        UsageError: if another run of that name is there, or those there were measured otherwise; then
            nothing is written.
    """
    new: dict[Path, str] = {}
    known: list[Path] = []
    made = dict(small_files(bench))
    if not made:
        raise UsageError(f"no run of {bench} is finished: go on with it by --resume")
    folder = results / (into or next(iter(made.values()))["asked"]["dataset"]["name"])
    for name, content in made.items():
        path, text = folder / name, seal(content)
        if not path.exists():
            new[path] = text
        elif path.read_text("utf-8") == text:
            known.append(path)
        elif replace:
            new[path] = text
        else:
            raise UsageError(f"{path} is of another run: give --replace, or another --into")
    there = [path for path in sorted(folder.glob("*.json")) if path.name not in made]
    _one_benchmark([*map(unseal, there), *made.values()])
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in new.items():
        write_atomically(path, text)
    return list(new), known


def published(folder: Path) -> list[dict[str, Any]]:
    """The small files of a folder.

    Args:
        folder: where `publish` wrote.

    Returns:
        Their contents, in the order of methods and seeds.

    Raises:
        CorruptError: if one is not what was written.
        UsageError: if they are of different benchmarks.
    """
    files = [unseal(path) for path in sorted(folder.glob("*.json"))]
    _one_benchmark(files)
    return sorted(files, key=lambda file: (file["run"]["method"], file["run"]["seed"]))


def _one_benchmark(files: Sequence[Mapping[str, Any]]) -> None:
    read: dict[str, Any] = {}
    for file in files:
        first, other = _fixed(files[0]), _fixed(file)
        for extra, data in file["asked"].get("extra_files", {}).items():
            first[f"the file of {extra}"] = read.setdefault(extra, data)
            other[f"the file of {extra}"] = data
        for name in first:
            if first[name] != other.get(name):
                run = file["run"]
                raise UsageError(
                    f"{run['method']} under seed {run['seed']} was measured otherwise than the rest: "
                    f"{name} is {other.get(name)} and not {first[name]}; keep it in a folder of its own "
                    "(--into)"
                )


def _fixed(file: Mapping[str, Any]) -> dict[str, Any]:
    protocol = file["run"]["protocol"].items()
    asked = file["asked"]
    # What a version says about a data set is not the data set.
    dataset = {name: value for name, value in asked["dataset"].items() if name != "about"}
    return {
        **{name: asked.get(name) for name in (*_ALIKE, "code")},
        "dataset": dataset,
        **{name: value for name, value in protocol if name not in _MAY_DIFFER},
    }


def changed_since(file: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that a run's own command would give other values today.

    Args:
        file: from `published`.

    Returns:
        By name the run's value and today's; `None` for a setting that was not there yet and counts as
        off. Left out is what had no effect: everything for a method that trains nothing, what is about
        keeping for one that keeps nothing, about solving for one that solves nothing, and a cap that
        no round came to.

    Raises:
        UsageError, ConfigError: if the command is not understood any more.
    """
    run = file["run"]
    (contender,) = parse_methods(file["typed"])
    today = contender.config(file["asked"]["settings"], run["seed"]).to_dict()
    was, then = run["config"], as_recorded(run["config"])
    return {
        name: (then[name] if then[name] or name in was else None, today[name])
        for name in _acting(today, run["rounds"])
        if then[name] != today[name]
    }


def differing(files: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """The settings in which runs of one label differ, though they stand in one column.

    Args:
        files: from `published`.

    Returns:
        By label and setting all values there are; left out is the seed, and what had no effect, as in
        `changed_since`.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for file in files:
        groups.setdefault(file["run"]["method"], []).append(file["run"])
    found: dict[str, dict[str, list[Any]]] = {}
    for label, runs in groups.items():
        configs = [as_recorded(run["config"]) for run in runs]
        rounds = [row for run in runs for row in run["rounds"]]
        for name in _acting(configs[0], rounds):
            # What is no setting any more says nothing that could be asked for again.
            values = [config[name] for config in configs if name in config]
            values = [value for i, value in enumerate(values) if value not in values[:i]]
            if name != "seed" and len(values) > 1:
                found.setdefault(label, {})[name] = values
    return found


def _acting(config: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The settings of a method that had an effect in some rounds."""
    if not METHODS.get(config["method"]):  # it changes no weights
        return
    keeps = config["keep_pool"] or config["keep_plain"] or config["contrast"]
    capped = config["stop"] != "epochs" and not all(row["converged"] for row in rounds)
    for name in config:
        without = (
            (name.startswith("keep_") and not keeps)
            or (name.startswith("solve_") and not config["solve"])
            or (name == "max_visits" and not capped)
        )
        if not without:
            yield name


def runs_of(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Small files as the finished runs that tables and figures are made of.

    Args:
        files: from `published`.

    Returns:
        Runs as `corsa.bench.runs` knows them; what warnings and reasons said is left out.
    """
    return [
        {
            **file["run"],
            "edits": [
                dict(zip(file["edits"], row, strict=True))
                for row in zip(*file["edits"].values(), strict=True)
            ],
            "draw": {**file["run"]["draw"], "warnings": [], "left_out": []},
        }
        for file in files
    ]


def record_of(files: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """What was asked for, as `corsa.bench.tables.report` takes it.

    Args:
        files: from `published`, all of them: their seeds are those that every method should have.
        methods: labels, in the order of a table; those without a file are unfinished.

    Returns:
        The record.
    """
    configs = {file["run"]["method"]: file["run"]["config"] for file in files}
    asked = files[0]["asked"]
    extras: dict[str, Any] = {}
    protocols: dict[str, Any] = {}
    read: dict[str, Any] = {}
    for file in files:
        extras |= file["asked"]["extras"]
        read |= file["asked"].get("extra_files", {})
        protocols |= file["asked"]["extra_protocols"]
    return {
        **asked,
        "extras": extras,
        "extra_files": read,
        "extra_protocols": protocols,
        "seeds": sorted({file["run"]["seed"] for file in files}),
        "methods": [{"label": label, "config": configs.get(label, {})} for label in methods],
        "left_out": [],
    }
