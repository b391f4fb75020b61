"""How things are written down, and where."""

import pytest

from corsa.errors import StoreError, UsageError
from corsa.report import page

SPACE = "\u00a0"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (1, "100 %"),
        (0, "0 %"),
        (0.614, "61 %"),
        (0.9999, "> 99 %"),
        (0.0001, "< 1 %"),
        (0.005, "< 1 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share, text):
    assert page.percent(share) == text.replace(" %", f"{SPACE}%")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.25, "0.2 s"), (95, "95 s"), (508, "8 min 28 s"), (7260, "2 h 1 min")],
)
def test_durations(seconds, text):
    assert page.duration(seconds) == text


def test_numbers_sizes_and_times():
    assert page.number(-1.26) == "−1.3"
    assert page.number(None) == "–"
    assert page.size(3_077_931_008) == "3.1 GB"
    assert page.size(None) == "–"
    assert page.when("2026-11-22T17:25:24+00:00") == "2026-11-22 17:25 UTC"


def test_what_cannot_be_seen_or_turns_a_line_is_named():
    shown = page.visible("a\x00b\x1b[31m \u202eevil\u202c \u2066x\u2069 \u200f\ud800 c\nd\te")
    assert shown == (
        "a⟨U+0000⟩b⟨U+001B⟩[31m ⟨U+202E⟩evil⟨U+202C⟩ ⟨U+2066⟩x⟨U+2069⟩ ⟨U+200F⟩⟨U+D800⟩ c\nd\te"
    )


def test_scripts_of_the_world_stay_as_they_are():
    text = "שלום مرحبا نمی\u200cخواهم 👩\u200d🔬 50\u00a0%"  # joiners and a no-break space belong
    assert page.visible(text) == text


def test_nested_values_get_a_line_each():
    values = {"a": {"b": 1, "c": {"d": True}}, "e": [1, 2], "f": None}
    assert page.named(values) == [("a: b", "1"), ("a: c: d", "true"), ("e", "1, 2"), ("f", "–")]


def test_the_place_is_beside_what_it_is_about_or_where_one_says(tmp_path):
    assert page.place(tmp_path, None) == tmp_path / "report.html"
    assert page.place(tmp_path, str(tmp_path / "x.html")) == tmp_path / "x.html"


def test_nothing_but_a_report_is_written_over(tmp_path):
    mine = tmp_path / "facts.jsonl"
    mine.write_text("my facts")
    with pytest.raises(UsageError, match=r"facts\.jsonl is no report"):
        page.place(tmp_path, mine)
    (tmp_path / "report.html").write_text("<p>mine</p>")
    with pytest.raises(UsageError, match=r"report\.html is no report"):
        page.place(tmp_path, None)
    older = tmp_path / "older.html"
    older.write_text(page._GENERATOR)
    assert page.place(tmp_path, older) == older


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder: name a file"):
        page.place(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        page.place(tmp_path, tmp_path / "nowhere" / "x.html")


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(StoreError, match=r"cannot write .*: make room"):
        page.write_page(tmp_path / "nowhere" / "x.html", "text")
