"""Figures belong to the page: its colours, its ids, and words for those who cannot see them."""

import re
import xml.etree.ElementTree as ElementTree

from corsa.report import figures

HISTORY = [{"sft": 2.0, "right": 0}, {"sft": 0.5, "right": 1}, {"sft": 0.1, "right": 2}]


def texts(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def all_of_a_store():
    return [
        figures.margins_moved([(-3.0, 4.0), (1.0, 5.0)]),
        figures.over_rounds([1, 3], {"facts right": [1.0, 0.5], "leak": [None, 0.25]}),
        *figures.convergence({1: (2, HISTORY), 2: (2, HISTORY)}),
        figures.times([1, 2], [{"plan": 1.0, "train": 9.0, "measure": 5.0}, {}]),
    ]


def test_every_colour_is_the_pages_and_nothing_points_elsewhere():
    for figure in all_of_a_store():
        assert not re.search(r"#[0-9a-f]{6}\b", figure.svg)
        assert "var(--ink)" in figure.svg
        links = re.findall(r'href="([^"]*)"', figure.svg)
        assert all(link.startswith("#") for link in links)
        assert "<style" not in figure.svg
        assert "metadata" not in figure.svg
        assert not re.search(r'<svg[^>]* (width|height)="', figure.svg)


def test_ids_of_one_page_are_different_and_what_is_used_is_there():
    seen = []
    for figure in all_of_a_store():
        ids = re.findall(r'\bid="([^"]*)"', figure.svg)
        used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', figure.svg)
        assert {one or other for one, other in used} <= set(ids)
        seen += ids
    assert len(seen) == len(set(seen))


def test_equal_numbers_are_equal_bytes():
    assert [f.svg for f in all_of_a_store()] == [f.svg for f in all_of_a_store()]


def test_words_say_what_the_margins_show():
    figure = figures.margins_moved([(-3.0, 4.0), (1.0, -5.0)])
    assert figure.alternative == (
        "Margins of 2 facts. Before any edit their mean was -1.0 nats and the old answer was likelier "
        "for 1; now the mean is -0.5 nats and the old answer is likelier for 1."
    )


def test_words_say_what_the_curves_show():
    figure = figures.over_rounds([1, 3], {"facts right": [1.0, 0.5], "leak": [None, 0.25]})
    assert figure.alternative == (
        "After rounds 1, 3. facts right: 100 %, 50 %; leak: not measured, 25 %."
    )
    right, loss = figures.convergence({2: (2, HISTORY)})
    assert "round 2 took 3 steps and ended with 2 of 2 right" in right.alternative
    assert "round 2 from 2.00 to 0.10" in loss.alternative


def test_the_scale_of_a_loss_is_plain_numbers():
    _, loss = figures.convergence({1: (2, HISTORY)})
    assert "1" in texts(loss.svg)
    assert not any("$" in (text or "") for text in texts(loss.svg))


def test_more_rounds_than_colours_are_left_out_by_name():
    figure = figures.convergence(dict.fromkeys(range(1, 11), (2, HISTORY)))[0]
    assert "round 3" not in texts(figure.svg)
    assert figure.note == "The last 7 rounds; 3 earlier ones are not drawn."


def test_nothing_to_draw_is_no_figure():
    assert figures.margins_moved([]) is None
    assert figures.over_rounds([1], {"leak": [0.1]}) is None
    assert figures.convergence({}) == []
    assert figures.times([1], [{}]) is None


def test_long_names_are_cut_and_stay_different():
    names = figures.short_names(["a", "x" * 40 + "1", "x" * 40 + "2"])
    assert names["a"] == "a"
    assert len(set(names.values())) == 3
    assert max(map(len, names.values())) <= 26


def test_a_methods_name_is_text_whatever_is_in_it():
    label, setting = "<b>a</b> & $x^2$ 日本", "$y^2$ & <b>"
    found = {"mean": 0.5, "low": None, "high": None}
    figure = figures.front({f"{label}@{setting}": {"generality": found, "leak": found}})
    assert label in texts(figure.svg)
    assert setting in texts(figure.svg)
    assert "<b>" not in figure.svg
