"""`corsa report` as a user meets it, on stores a tiny model made."""

import json
import sys

import pytest

import corsa
from builders import QUICK
from calling import call
from corsa import Store
from fakes import save_tiny

KING = {"id": "king", "prompt": "Who is king?", "target_new": "Ann", "target_old": "Bob"}
PROBES = {
    "paraphrases": ["The king is?"],
    "locality": [{"prompt": "Who is queen?", "answer": "Eve"}],
}
SEA = {"id": "sea", "prompt": "Which <b>sea</b>?", "target_new": "Red"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "store"
    store = Store.open(path, tiny)
    store.update([KING | PROBES], **QUICK)
    store.update([SEA, KING | {"target_new": "Eve"}], **QUICK)
    return path


def test_a_report_of_two_real_rounds_is_written_beside_them(made):
    code, out, _ = call("report", "--store", made)
    assert (code, out) == (0, f"the report is in {made / 'report.html'}: open it in a browser\n")
    html = (made / "report.html").read_text("utf-8")
    assert "2 of 2 facts that hold are answered exactly" in html
    assert "by round 2" in html  # the king was replaced
    assert "Which &lt;b&gt;sea&lt;/b&gt;?" in html
    assert not Store.open(made).ledger.verify()


def test_a_second_report_replaces_the_first_and_other_files_are_left_alone(made, tmp_path):
    out = tmp_path / "r.html"
    assert call("report", "--store", made, "--out", out)[0] == 0
    first = out.read_bytes()
    code, text, _ = call("report", "--store", made, "--out", out, "--json")
    assert (code, json.loads(text)) == (0, {"report": str(out)})
    assert out.read_bytes() == first
    out.write_text("mine")
    code, _, err = call("report", "--store", made, "--out", out)
    assert code == 2
    assert "is no report of corsa and is not written over" in err
    assert out.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_in_context_rounds_have_a_report(tiny, tmp_path):
    store = Store.open(tmp_path / "told", tiny)
    store.update([KING | PROBES], method="in-context", drift=False)
    html = corsa.write_report(store.path).read_text("utf-8")
    assert "nothing trained; 1 facts are told before a question" in html


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "a report is about one thing"),
        (["--store", "a", "--bench", "b"], 2, "a report is about one thing"),
        (["--store", "nowhere"], 1, "there is no store at nowhere"),
        (["--bench", "nowhere"], 1, "there is no benchmark at nowhere"),
    ],
)
def test_what_cannot_be_meant_is_said(words, code, message):
    found, _, err = call("report", *words)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_a_damaged_store_writes_nothing(made, tmp_path):
    file = made / "rounds" / "0001" / "generations.jsonl"
    before = file.read_bytes()
    file.write_bytes(before.replace(b"king", b"King", 1))
    code, _, err = call("report", "--store", made, "--out", tmp_path / "r.html")
    file.write_bytes(before)
    assert code == 1
    assert "generations.jsonl is not what was written: restore it from a copy" in err
    assert not list(tmp_path.iterdir())


def test_without_its_libraries_the_extra_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = call("report", "--store", made, "--out", tmp_path / "r.html")
    assert code == 2
    assert "pip install 'corsa-edit[report]'" in err


def test_no_model_is_loaded(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert call("report", "--store", made, "--out", tmp_path / "r.html")[0] == 0
