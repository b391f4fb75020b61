"""The card of an export: facts are shown as text, and nothing of this machine is named."""

import pytest

from builders import planned
from corsa.export.adapter import vllm_rank
from corsa.export.card import base_name, shown, write_documents
from corsa.export.request import Request
from corsa.ledger import Round
from corsa.progress import Silent

METRICS = {
    "reliability": 1.0,
    "generality": None,
    "generality_rules": {"n": 0, "exact": None},
    "leak": 0.25,
    "portability": None,
    "locality": {"agreement": 1.0, "kept_knowledge": None, "kl": 0.5, "probes": "drift"},
    "drift": None,
    "retention": {"reliability": {"forgetting": None, "bwt": None}, "reversion": None},
    "edits": [
        {
            "id": "a",
            "prompt": "Who?",
            "answer": "<b>Bob</b>",
            "target_new": "Ann",
            "right": False,
            "already_said": False,
            "trained": True,
        }
    ],
    "protocol": {"decoding": "greedy", "versions": {"torch": "2"}},
}


@pytest.fixture
def card(tmp_path, monkeypatch):
    """The text of a card, for a base model and edits."""
    (tmp_path / "metrics.json").write_text("{}", "utf-8")
    record = {"artefact": {"kind": "lora"}, "method": "corsa"}
    monkeypatch.setattr(Round, "metrics", lambda self: METRICS)

    def write(model, edits=()):
        request = Request(
            Round(2, 1, tmp_path, record), edits, model, "as trained", lambda: None, Silent()
        )
        write_documents(
            request, tmp_path, library="peft", what="It is.", loading="Load it.", checked=["well"]
        )
        return (tmp_path / "README.md").read_text("utf-8")

    return write


def model(name, revision=None):
    return {"name": name, "revision": revision, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain text: 06:45, A & B", "plain text: 06:45, A & B"),
        ("a | b\n| c", r"a \| b \| c"),
        ("<script>x</script>", r"\<script\>x\</script\>"),
        ("[here](https://x.y)", r"\[here\](https\://x.y)"),
        ("**bold** `code` ~~no~~ _it_", r"\*\*bold\*\* \`code\` \~\~no\~\~ \_it\_"),
        ("&lt; $x$ #1 @me ![i]", r"\&lt; \$x\$ \#1 \@me \!\[i\]"),
        ("\x1b[31mred\u202e", r"\[31mred"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_a_fact_is_shown_as_text_whatever_it_holds(text, line):
    assert shown(text) == line


def test_edits_are_rows_and_their_text_cannot_leave_the_row(card):
    edit = planned("Who | is\n\n# king?", "Ann", "```Bob", round=2, id="k")
    text = card(model("owner/name", "abc"), [edit])
    assert "| 2 | Who \\| is \\# king? | Ann | \\`\\`\\`Bob |" in text.splitlines()
    assert text.count("\n## ") == 3


def test_numbers_come_with_their_protocol_and_what_was_wrong(card):
    text = card(model("owner/name", "abc"))
    assert "| leak | 0.25 |" in text
    assert "| portability |" not in text  # nothing to measure it on
    assert "Protocol: decoding greedy; versions torch 2." in text
    assert "- not learned: Who? → \\<b\\>Bob\\</b\\> (not Ann)" in text
    assert "- checked at export: well" in text


def test_a_model_of_the_hub_is_named_with_its_revision(card):
    text = card(model("owner/name", "abc"))
    assert 'base_model: "owner/name"' in text
    assert "owner/name at revision abc" in text


def test_the_embedded_model_is_named_with_what_was_done_to_it(card):
    text = card(model("smollm2"))
    assert 'base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"' in text
    assert "as the Q4\\_1 GGUF file" in text or "as the Q4_1 GGUF file" in text


def test_a_folder_of_the_users_own_is_named_by_its_last_part_alone(card):
    text = card(model("/home/me/secret-place/tiny"))
    assert "base_model:" not in text  # the Hub refuses what is no id
    assert "secret-place" not in text
    assert "The base model is tiny (" in text
    assert base_name(Request(None, (), model("/a/b.gguf"), "f32", None, Silent())) == "b.gguf"


def test_many_edits_are_shown_in_part_and_written_in_full(card, tmp_path):
    edits = [planned(f"Who is {n}?", f"N{n}", round=1, id=str(n)) for n in range(150)]
    text = card(model("owner/name", "abc"), edits)
    assert "50 more edits are in `edits.jsonl`" in text
    assert len((tmp_path / "edits.jsonl").read_text("utf-8").splitlines()) == 150


@pytest.mark.parametrize(("rank", "given"), [(1, 8), (8, 8), (9, 16), (33, 64), (512, 512)])
def test_vllm_is_given_a_rank_it_takes(rank, given):
    assert vllm_rank(rank) == given
