"""How others write the same records: rows of CounterFact and EasyEdit in the native names.

A translation only moves values; judging them is left to `corsa.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Layout(NamedTuple):
    """How somebody writes a record.

    Attributes:
        name: whose layout it is.
        marks: a row with any of these columns is of this layout.
        labels: native field -> where its author writes it, "column.key.key".
        unkept: columns without a label that are not metadata either.
        prefix: of ids, which are plain numbers there.
    """

    name: str
    marks: frozenset[str]
    labels: Mapping[str, str]
    unkept: frozenset[str] = frozenset()
    prefix: str = ""


NATIVE = Layout("corsa", frozenset(), {})
COUNTERFACT = Layout(
    "CounterFact",
    frozenset({"requested_rewrite"}),
    {
        "id": "case_id",
        "prompt": "requested_rewrite.prompt",
        "target_new": "requested_rewrite.target_new.str",
        "target_old": "requested_rewrite.target_true.str",
        "subject": "requested_rewrite.subject",
        "relation": "requested_rewrite.relation_id",
        "paraphrases": "paraphrase_prompts",
        "locality": "neighborhood_prompts",
    },
    frozenset({"pararel_idx", "attribute_prompts", "generation_prompts"}),
    "cf-",
)
EASYEDIT = Layout(
    "EasyEdit",
    frozenset({"ground_truth", "rephrase_prompt", "locality_prompt"}),
    {
        "id": "case_id",
        "target_old": "ground_truth",
        "paraphrases": "rephrase_prompt",
        "locality": "locality_prompt",
    },
    frozenset({"locality_ground_truth"}),
    "case-",
)


def layout_of(row: Mapping[str, Any]) -> Layout:
    """Return the layout of a row, which its columns tell."""
    return next((each for each in (COUNTERFACT, EASYEDIT) if each.marks & row.keys()), NATIVE)


def to_native(row: Mapping[str, Any], layout: Layout) -> tuple[dict[str, Any], list[str]]:
    """The native record of a row of that layout; columns of no meaning to it are passed on.

    Returns:
        The record, not yet validated, and what is wrong with the row that cannot be seen in it.
    """
    used = layout.unkept | {label.partition(".")[0] for label in layout.labels.values()}
    record = {name: value for name, value in row.items() if name not in used}
    problems = []
    for name, label in layout.labels.items():
        if (value := _at(row, label)) is not None:
            if record.get(name) is not None:
                problems.append(f"has both `{name}` and {layout.name}'s `{label}`; keep one")
            record[name] = f"{layout.prefix}{value}" if _is_number(name, value) else value
    if layout is COUNTERFACT:
        problems += _fill_subject(record, row["requested_rewrite"])
        if isinstance(near := row.get("neighborhood_prompts"), list | tuple):
            record["locality"] = [_probe(prompt, record.get("target_old")) for prompt in near]
    if layout is EASYEDIT:
        if (rephrased := row.get("rephrase_prompt")) is not None:
            record["paraphrases"] = [rephrased]
        near, answer = row.get("locality_prompt"), row.get("locality_ground_truth")
        if near is not None or answer is not None:
            record["locality"] = [_probe(near, answer)]
    return record, problems


def _is_number(name: str, value: object) -> bool:
    return name == "id" and isinstance(value, int | str) and not isinstance(value, bool)


def _fill_subject(record: dict[str, Any], rewrite: object) -> list[str]:
    if not isinstance(rewrite, Mapping):
        return ["`requested_rewrite` must be an object"]
    prompt, subject = record.get("prompt"), record.get("subject")
    if subject is None:
        return ["`requested_rewrite.subject` is missing"]
    if isinstance(prompt, str):
        record["prompt"] = prompt.replace("{}", str(subject))
        if "{}" not in prompt:
            return [f"`requested_rewrite.prompt` has no {{}} for the subject: {prompt!r:.60}"]
    return []


def _probe(prompt: object, answer: object) -> dict[str, Any]:
    return {"prompt": prompt} if answer is None else {"prompt": prompt, "answer": answer}


def _at(value: Any, label: str) -> Any:
    for key in label.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
