"""Which file writes which format; the folder appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from corsa.errors import CorruptError, StoreError, UsageError
from corsa.export import adapter, gguf_lora, gguf_merged, merged
from corsa.export.request import FORMATS, Request
from corsa.files import sha256_file, write_folder
from corsa.ledger import Round

_ADAPTERS, _WEIGHTS = ("lora",), ("lora", "matrix")


class _Format(NamedTuple):
    """Who writes it, and of which kinds of artefact."""

    write: Callable[[Request, Path], list[str]]
    kinds: tuple[str, ...]


_WRITERS = {
    "adapter": _Format(adapter.write, _ADAPTERS),
    "merged": _Format(merged.write, _WEIGHTS),
    "gguf-lora": _Format(gguf_lora.write, _ADAPTERS),
    "gguf": _Format(gguf_merged.write, _WEIGHTS),
}


def choose_type(format: str, type: str | None) -> str:
    """What the numbers of a format are written in.

    Args:
        format: a name in `FORMATS`.
        type: what was asked for; `None`: the format's default.

    Returns:
        One of the format's types.

    Raises:
        UsageError: if the format or the type is unknown.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}: give one of {', '.join(FORMATS)}")
    types = FORMATS[format]
    if type is None:
        return types[0]
    if type not in types or format == "adapter":
        given = f"one of {', '.join(types)}" if format != "adapter" else "none, it is as trained"
        raise UsageError(f"--format {format} cannot be written in {type!r}: give {given}")
    return type


def check_exportable(round: Round, format: str) -> None:
    """Refuse a round that has nothing to write in a format, or is not what was committed.

    Args:
        round: the round.
        format: a name in `FORMATS`.

    Raises:
        UsageError: if its artefact is of another kind.
        CorruptError: if a file of it is not what was written.
    """
    if round.kind not in _WEIGHTS:
        raise UsageError(
            f"round {round.id} was made with method={round.record['method']}, which changes no "
            f"weights: there is nothing to export. What it tells the model is in {round.folder}"
        )
    if round.kind not in _WRITERS[format].kinds:
        raise UsageError(
            f"round {round.id} was made with method={round.record['method']}: one matrix is another, "
            "and there is no adapter. Give --format merged or --format gguf"
        )
    for name, digest in round.record["files"].items():
        path = round.folder / name
        if not path.is_file() or sha256_file(path) != digest:
            raise CorruptError(f"{path} is not what was written: restore it from a copy")


def check_out(out: Path, store: Path) -> None:
    """Refuse a place where an export would mix with something else.

    Args:
        out: where it is to go.
        store: the store's folder.

    Raises:
        UsageError: if there is something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise UsageError(f"{out} {what}: give a folder that is new or empty")
    if out.resolve().is_relative_to(store.resolve()):
        raise UsageError(f"{out} is inside the store: give a folder elsewhere")


def write_export(request: Request, format: str, out: Path) -> list[str]:
    """Write a round in a format.

    Args:
        request: what is exported.
        format: a name in `FORMATS`.
        out: a folder that is new or empty.

    Returns:
        What was checked; sentences.

    Raises:
        StoreError: if it cannot be written; nothing is left of it.
    """
    from safetensors import SafetensorError  # what it makes of a full disk is no OSError

    checked: list[str] = []

    def write(folder: Path) -> None:
        checked.extend(_WRITERS[format].write(request, folder))
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_folder(out, write)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot write {out} ({reason}): nothing is left there; make room or mend the permissions"
        ) from error
    return checked
