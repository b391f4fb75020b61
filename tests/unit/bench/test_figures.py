"""Figures are looked at by people; here: that each shows the numbers, whatever is missing."""

import numpy as np
import pytest

from corsa.bench import figures


def run(method, seed, rounds=3, margin=2.0):
    matrix = [[1.0 - 0.1 * (r - k) - 0.01 * seed for k in range(r + 1)] for r in range(rounds)]
    return {
        "method": method,
        "seed": seed,
        "matrix": {"reliability": matrix},
        "rounds": [
            {"round": r + 1, "forgetting": 0.1 * r + 0.02 * seed if r else None}
            for r in range(rounds)
        ],
        "edits": [{"margin": margin, "base_margin": -1.0 - n} for n in range(4)],
    }


def runs(*methods, **changes):
    return {method: [run(method, seed, **changes) for seed in (0, 1)] for method in methods}


DOCUMENT = {
    "dataset": {"name": "facts"},
    "model": {"name": "tiny"},
    "rounds": 3,
    "edits": 4,
    "seeds": [0, 1],
    "methods": {
        "corsa": {
            "leak": {"mean": 0.1, "low": 0.05, "high": 0.2},
            "generality": {"mean": 0.6, "low": 0.5, "high": 0.7},
        },
        "lora": {
            "leak": {"mean": 0.5, "low": None, "high": None},
            "generality": {"mean": 0.4, "low": None, "high": None},
        },
        "in-context": {"leak": {"mean": 0.5, "low": None, "high": None}},
    },
}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_heat_maps_show_the_mean_over_seeds_one_a_method():
    figure = figures.retention(runs("corsa", "lora"))
    first, second, _bar = figure.axes
    assert (first.get_title(), second.get_title()) == ("corsa", "lora")
    shown = np.asarray(first.images[0].get_array())
    assert shown[2, 0] == pytest.approx(79.5)  # 80 and 79
    assert np.isnan(shown[0, 1])
    # 99.5 is 100 to the eye
    assert texts(first) == [
        f"{a}\n{b}"
        for a, b in zip(
            ("100", "90", "100", "80", "90", "100"),
            ("99–100", "89–90", "99–100", "79–80", "89–90", "99–100"),
            strict=True,
        )
    ]
    alone = figures.retention({"corsa": [run("corsa", 0)]}).axes[0]
    assert texts(alone)[:2] == ["100", "90"]


@pytest.mark.parametrize("count", [1, 5, 6])
def test_many_methods_take_more_than_one_row(count):
    figure = figures.retention(runs(*(f"method {n}" for n in range(count))))
    titles = [ax.get_title() for ax in figure.axes if ax.get_visible() and ax.get_title()]
    assert titles == [f"method {n}" for n in range(count)]


def test_forgetting_begins_with_the_second_round_and_carries_its_interval():
    left, right = figures.forgetting(runs("corsa", "lora")).axes
    line = left.lines[0]
    assert list(line.get_xdata()) == [2, 3]
    assert list(line.get_ydata()) == pytest.approx([11, 21])
    assert len(left.collections) == 2  # a band each
    assert list(right.lines[0].get_xdata()) == [1, 2, 3]
    assert right.lines[0].get_ydata()[0] == pytest.approx(99.5)


def test_nothing_forgotten_is_not_blown_up():
    flat = runs("corsa")
    for each in flat["corsa"]:
        each["rounds"] = [{"round": r + 1, "forgetting": 0.0 if r else None} for r in range(3)]
    left, _ = figures.forgetting(flat).axes
    assert left.get_ylim() == (-2, 10)


def test_margins_stand_beside_those_before_any_edit():
    (ax,) = figures.margins(runs("corsa")).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["before any edit (n = 8)", "corsa (n = 8)"]


def test_without_old_answers_there_are_no_margins_and_still_a_figure():
    without = runs("corsa", margin=None)
    (ax,) = figures.margins(without).axes
    assert "corsa (n = 0)" in [label.get_text() for label in ax.get_yticklabels()]


def test_margins_have_their_interval_over_seeds():
    its = {"corsa": [run("corsa", 0, margin=1.0), run("corsa", 1, margin=3.0)]}
    (ax,) = figures.margins(its).axes
    (before, after) = [bar.lines[0] for bar in ax.containers]
    assert list(before.get_xdata()) == [-2.5]
    assert list(after.get_xdata()) == [2.0]
    (line,) = ax.containers[1].lines[2]
    assert line.get_segments()[0][:, 0] == pytest.approx([1.0, 3.0])
    assert not figures.margins({"corsa": its["corsa"][:1]}).axes[0].containers


def test_the_front_shows_methods_that_have_both_numbers_with_their_intervals():
    (ax,) = figures.front(DOCUMENT["methods"]).axes
    names = ax.get_legend_handles_labels()[1]
    assert names == ["corsa", "lora"]
    point = ax.containers[0].lines[0]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((10, 60))
    low, high = ax.get_xlim()
    assert low < 5
    assert high > 50


def test_settings_of_one_method_are_joined_in_their_order():
    numbers = {"mean": 0.1, "low": None, "high": None}
    at = {
        f"{name}@{weight}": {"leak": numbers | {"mean": leak}, "generality": numbers}
        for name, weight, leak in [("a", 4, 0.1), ("b", 1, 0.2), ("a", 1, 0.3), ("a", 16, 0.2)]
    }
    (ax,) = figures.front({**at, "c": at["b@1"]}).axes
    curves = [list(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) > 1]
    assert curves == [pytest.approx([30, 10, 20])]
    # One look and one name each; the settings stand beside their points.
    assert ax.get_legend_handles_labels()[1] == ["a", "b", "c"]
    assert [text.get_text() for text in ax.texts] == ["4", "1", "1", "16", ""]
    a, b, *more, c = [container.lines[0].get_color() for container in ax.containers]
    assert len({a, b, c}) == 3
    assert set(more) == {a}


def test_other_questions_about_subjects_have_a_front_of_their_own():
    numbers = {"mean": 0.1, "low": None, "high": None}
    both = {"leak": numbers, "generality": numbers | {"mean": 0.9}}
    methods = {"lora": both, "corsa@1": both | {"subject.leak": numbers | {"mean": 0.7}}}
    assert len(figures.front(methods).axes) == 1  # of one method there is nothing to tell apart
    methods["corsa@2"] = both | {"subject.leak": numbers | {"mean": 0.6}}
    one, other = figures.front(methods).axes
    (_, corsa, _), (first, second) = (ax.containers for ax in (one, other))
    assert [c.lines[0].get_xdata()[0] for c in (first, second)] == pytest.approx([70, 60])
    assert first.lines[0].get_color() == corsa.lines[0].get_color()
    assert "edited subjects" in other.get_xlabel()


def test_no_two_of_twenty_methods_look_alike():
    looks = [tuple(figures._style(number).values()) for number in range(20)]
    assert len(set(looks)) == 20


def test_all_figures_are_written(tmp_path):
    made = [run for each in runs("corsa", "lora").values() for run in each]
    paths = figures.draw_figures(tmp_path / "figures", DOCUMENT, made)
    assert {path.name for path in paths} == {
        "retention.png",
        "forgetting.png",
        "margins.png",
        "front.png",
    }
    assert all(path.stat().st_size > 5000 for path in paths)


def test_no_front_is_drawn_of_nothing(tmp_path):
    methods = {"in-context": {"leak": {"mean": 0.5, "low": None, "high": None}}}
    paths = figures.draw_figures(tmp_path, {**DOCUMENT, "methods": methods}, [run("in-context", 0)])
    assert "front.png" not in {path.name for path in paths}


def test_the_title_counts_the_seeds_that_ran():
    both = {"corsa": [run("corsa", 0)], "lora": [run("lora", 0), run("lora", 1)]}
    assert figures._title(DOCUMENT, both).endswith("4 edits, 1 to 2 seeds")
    assert figures._title(DOCUMENT, {"corsa": both["corsa"]}).endswith("4 edits, 1 seed")


def test_one_round_and_one_seed_are_enough(tmp_path):
    figures.draw_figures(tmp_path, DOCUMENT, [run("corsa", 0, rounds=1)])
