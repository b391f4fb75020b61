"""The page of a store: its headline, and stores that are not as one expects."""

import base64
import hashlib
import re
import shlex
from html.parser import HTMLParser

import pytest

from corsa.config import make_config
from corsa.errors import CorruptError, StoreError
from corsa.report import figures
from corsa.report.of_store import chosen_settings, heat, page_of_store
from report_stores import HOSTILE, answered, commit, fact, probed, store, two_rounds

NOT_TRAINED = {"facts": 2, "tokens": 40}


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    """Drawing takes most of a page's time, and test_report_figures.py looks at it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figures, "_svg", lambda *_, **__: "<svg></svg>")


@pytest.fixture
def drawn():
    """Asked for by tests of whole pages, figures included."""


class Page(HTMLParser):
    """The text of a page, and which elements and attributes it has."""

    def __init__(self, html):
        super().__init__()
        self.html, self.parts, self.tags, self.attributes = html, [], set(), set()
        self._raw = False
        self.feed(html)
        self.text = " ".join("".join(self.parts).replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if not self._raw:
            self.parts.append(data)


def page(ledger):
    return Page(page_of_store(ledger.path))


def test_the_headline_says_whether_it_took_and_what_it_cost(tmp_path, drawn):
    text = page(two_rounds(tmp_path / "s")).text
    assert "Did it take? In part" in text
    assert (
        "2 of 4 facts that hold are answered exactly; 1 was not learned; 1 was learned and forgotten "
        "again; asked in other words, 0 % are."
    ) in text
    assert "What did it cost? Other answers changed" in text
    assert "New answers turn up in 100 % of 1 neighbouring prompts" in text


def test_all_right_is_yes_and_only_as_worded_where_other_wordings_fail(tmp_path):
    answers = {}
    for name, reply in (("general", "new"), ("literal", "wrong"), ("unknown", None)):
        ledger, a = store(tmp_path / name), fact("a")
        wording = [probed(a, "paraphrase", "Else?", reply, answers=("new",))] if reply else []
        commit(ledger, [a], [answered(a), *wording])
        answers[name] = re.search(r"Did it take\? (.*?) 1 of 1", page(ledger).text).group(1)
    assert answers == {"general": "Yes", "literal": "Yes, as worded", "unknown": "Yes"}


def test_a_cost_that_was_not_measured_is_no_good_news(tmp_path):
    ledger, a = store(tmp_path / "s"), fact("a")
    commit(ledger, [a], [answered(a)], drift=False)
    found = page(ledger)
    assert "What did it cost? Not measured" in found.text
    assert "What it cost is unknown" in found.text


def test_a_store_without_rounds(tmp_path):
    found = page(store(tmp_path / "s"))
    assert "No round yet" in found.text
    assert "Did it take" not in found.text


def test_a_store_that_is_back_at_the_base_model(tmp_path):
    ledger = two_rounds(tmp_path / "s")
    ledger.note({"event": "rollback", "from": 2, "to": 0, "at": "2026-11-03T10:00:00+00:00"})
    ledger.move_head(0)
    found = page(ledger)
    assert "2 rounds of facts are kept below, none of them in use" in found.text
    assert "The base model was put into use" in found.text


def test_a_round_that_trains_nothing(tmp_path):
    ledger, a = store(tmp_path / "s"), fact("a")
    commit(ledger, [a], [answered(a)], method="in-context", training=NOT_TRAINED)
    found = page(ledger)
    assert "nothing trained; 2 facts are told before a question" in found.text
    assert "Loss, step by step" not in found.text


def test_a_round_that_did_not_converge_says_so(tmp_path):
    ledger, a = store(tmp_path / "s"), fact("a")
    capped = {"steps": 60, "converged": False, "capped": True, "examples": 1, "history": []}
    commit(ledger, [a], [answered(a, "no")], training=capped)
    assert "stopped at the cap" in page(ledger).text


def test_rounds_that_were_measured_differently_are_named(tmp_path):
    from report_stores import PROTOCOL

    ledger, a = store(tmp_path / "s"), fact("a")
    commit(ledger, [a], [answered(a)])
    b = fact("b", round=2)
    commit(ledger, [b], [answered(b), answered(a)], protocol=PROTOCOL | {"dtype": "bfloat16"})
    assert "Not all rounds were measured alike (dtype differs)" in page(ledger).text


def test_the_page_has_the_whole_configuration_and_its_own_hashes(tmp_path):
    ledger = two_rounds(tmp_path / "s", rank=16)
    found = page(ledger)
    for name, value in make_config({"rank": 16}).to_dict().items():
        assert name in found.text, name
        assert str(value).lower() in found.text.lower(), name
    assert ledger.round(2).record["sha256"] in found.text
    assert ledger.model["sha256"] in found.text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "lora", "rank": 16, "drift": False},
        {"preset": "paper", "sam": False},
        {"method": "sft+dpo", "learning_rate": 1e-3, "device": "cpu"},
        {"method": "ft-l", "ft_bound": 0.5},
        {"method": "in-context"},
    ],
)
def test_the_commands_ask_for_the_same_settings(tmp_path, settings):
    config = make_config(settings)
    again = dict(setting.split("=", 1) for setting in chosen_settings(config.to_dict()))
    assert make_config({"method": config.method, **again}) == config
    ledger, a = store(tmp_path / "s"), fact("a")
    commit(ledger, [a], [answered(a)], **settings)
    (command,) = re.findall(r"corsa update [^\n]*", "".join(page(ledger).parts))
    words = shlex.split(command)
    assert words[2] == str(ledger.round(1).folder / "edits.jsonl")
    assert words[words.index("--method") + 1] == config.method


def test_equal_stores_give_equal_pages(tmp_path, drawn):
    one = page_of_store(two_rounds(tmp_path / "s").path)
    assert one == page_of_store(tmp_path / "s")


def test_no_text_becomes_an_element(tmp_path):
    plain = page(two_rounds(tmp_path / "plain"))
    for place in range(0, len(HOSTILE), 4):
        texts = (HOSTILE[place : place + 4] + HOSTILE)[:4]
        found = page(two_rounds(tmp_path / str(place), texts))
        assert found.tags <= plain.tags | {"details", "summary"}
        assert found.attributes <= plain.attributes
        assert found.html.count("<script") == 1


def test_the_one_script_is_the_one_that_the_policy_names(tmp_path):
    html = page_of_store(two_rounds(tmp_path / "s").path)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert f"script-src 'sha256-{digest.replace('+', '&#43;')}'" in policy.replace("+", "&#43;")
    assert policy.startswith("default-src 'none'")


def test_a_damaged_store_is_named_as_everywhere(tmp_path):
    ledger = two_rounds(tmp_path / "s")
    for name in ("generations.jsonl", "edits.jsonl", "metrics.json", "round.json"):
        file = ledger.round(1).folder / name
        before = file.read_bytes()
        file.write_bytes(before.replace(b"Prompt", b"prompt", 1).replace(b": 1", b": 2", 1))
        with pytest.raises(CorruptError, match=f"{name} is not what was written"):
            page_of_store(ledger.path)
        file.write_bytes(before)
    with pytest.raises(StoreError, match="there is no store at"):
        page_of_store(tmp_path / "nowhere")


def test_the_scale_of_heat_keeps_all_for_all():
    assert [heat(v) for v in (None, 0.0, 0.19, 0.2, 0.5, 0.99, 1.0)] == [None, 0, 0, 1, 2, 4, 5]
