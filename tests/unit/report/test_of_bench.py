"""The page of a comparison."""

import re
import shlex

import pytest

from corsa.bench.contenders import parse_methods
from corsa.errors import CorruptError, StoreError
from corsa.files import unseal
from corsa.report import figures
from corsa.report.of_bench import cell, page_of_bench
from report_stores import HOSTILE, bench


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    """Drawing takes most of a page's time, and test_report_figures.py looks at it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figures, "_svg", lambda *_, **__: "<svg></svg>")


@pytest.fixture
def drawn():
    """Asked for by tests of whole pages, figures included."""


def text(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).replace("\u00a0", " ").split())


def test_methods_stand_side_by_side_with_their_intervals(tmp_path):
    html = page_of_bench(bench(tmp_path / "b"))
    found = text(html)
    assert "corsa answers other wordings best: 66 %, before lora with 46 %." in found
    assert "in-context leaks least into other answers: 18 %, before lora with 28 %; " in found
    assert "it answers 26 % of other wordings." in found
    assert re.search(r"corsa 98\.0 % 96\.0 to 100\.0", found)
    assert "all edits right: answer somewhere in the reply" in found
    assert "left out" in found.lower()
    assert "another &lt;b&gt;target&lt;/b&gt;" in html


def test_what_is_not_finished_is_named_and_few_seeds_are_no_result(tmp_path):
    folder = bench(tmp_path / "b", seeds=(0, 1), lacking=[("lora", 1)])
    found = text(page_of_bench(folder))
    assert "Not finished, and not in here: lora under seed 1." in found
    assert "That is 2 seeds: a direction, not a result." in found


def test_one_method_one_seed_one_round(tmp_path):
    found = text(page_of_bench(bench(tmp_path / "b", ("corsa",), (0,), rounds=1)))
    assert "One method alone has nothing to be tested against." in found
    assert "one seed has no interval" in found


def test_a_tie_is_said(tmp_path):
    folder = bench(tmp_path / "b", ("a", "b"), (0,), lacking=[("b", 0)])
    again = bench(tmp_path / "c", ("a", "b"), (0,))
    for file in ("m0-seed0.json", "m1-seed0.json"):
        run = unseal(again / "runs" / "m0-seed0.json")
        run["method"] = "a" if file.startswith("m0") else "b"
        from corsa.files import seal

        (again / "runs" / file).write_text(seal(run))
    assert "a and b do equally well at leak: 40 %." in text(page_of_bench(again))
    assert "equally" not in text(page_of_bench(folder))


def test_no_folder_no_run_and_a_damaged_run(tmp_path):
    with pytest.raises(StoreError, match="there is no benchmark at"):
        page_of_bench(tmp_path / "nowhere")
    none = bench(tmp_path / "none", ("a",), (0,), lacking=[("a", 0)])
    with pytest.raises(StoreError, match=r"no run of .* is finished: go on with"):
        page_of_bench(none)
    damaged = bench(tmp_path / "damaged")
    file = damaged / "runs" / "m0-seed0.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(CorruptError, match=r"m0-seed0\.json is not what was written"):
        page_of_bench(damaged)


def test_the_command_asks_for_the_same_methods(tmp_path):
    folder = bench(tmp_path / "b")
    (command,) = re.findall(r"corsa bench [^\n<]*", page_of_bench(folder))
    words = shlex.split(command.replace("&#39;", "'"))
    shared = {
        key: value
        for place, word in enumerate(words)
        if word == "--set"
        for key, value in [words[place + 1].split("=", 1)]
    }
    asked = parse_methods(words[words.index("--methods") + 1])
    for contender, method in zip(asked, unseal(folder / "bench.json")["methods"], strict=True):
        config = contender.config(shared, 0).to_dict()
        assert {k: v for k, v in config.items() if k != "seed"} == method["config"]
        assert contender.label == method["label"]
    assert words[words.index("--data") + 1] == "facts.json"


def test_no_label_becomes_an_element(tmp_path, drawn):
    labels = tuple(label.replace("[", "(") for label in HOSTILE[:8])
    html = page_of_bench(bench(tmp_path / "b", labels, (0,)))
    assert html.count("<script") == 1
    assert "<img" not in html
    assert "<link" not in html
    assert "\u202e" not in html


def test_a_cell_shows_what_its_number_is():
    found = {"mean": 0.614, "low": 0.5, "high": 0.7}
    assert cell(found, share=True)[:2] == ("61.4\u00a0%", "50.0 to 70.0")
    assert cell({"mean": -2.5, "low": None, "high": None}, share=False)[:2] == ("−2.50", "")
    assert cell({"mean": 21.0, "low": None, "high": None}, share=False)[0] == "21"
    assert cell(None, share=True) == ("–", "", None, False)
