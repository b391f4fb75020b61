from dataclasses import replace

import pytest

from corsa.metrics import (
    Score,
    accuracy,
    by_edit,
    known,
    leak_any,
    locality,
    margins,
    mean,
    retention,
    retention_report,
    reversion,
    score_from_record,
    summary,
)


def score(edit="a", kind="edit", *, round=1, **fields):
    return Score(round, edit, kind, "prompt", "reply", "base reply", **fields)


def right(edit, value=True, *, round=1, kind="edit", **fields):
    return score(edit, kind, round=round, exact=value, contains=value, squad=value, **fields)


def test_a_mean_leaves_out_what_is_not_there():
    assert mean([1, None, False, True]) == 0.666667
    assert mean([0.0]) == 0.0
    assert mean([None]) is None
    assert mean([]) is None


def test_an_edit_with_many_probes_weighs_no_more_than_one_with_few():
    scores = [right("a", x, kind="paraphrase") for x in (True, True, True, False)]
    scores.append(right("b", False, kind="paraphrase"))
    assert by_edit(scores, lambda s: s.exact) == [0.75, 0.0]
    assert accuracy(scores, "paraphrase")["exact"] == 0.375
    assert accuracy(scores, "paraphrase")["n"] == 5


def test_equal_ids_of_two_rounds_are_two_edits():
    scores = [right("a", True, round=1), right("a", False, round=2)]
    assert by_edit(scores, lambda s: s.exact) == [1.0, 0.0]


def test_the_three_rules_are_three_columns():
    scores = [score(exact=False, contains=True, squad=False), score("b", exact=True, contains=True)]
    assert accuracy(scores, "edit") == {"exact": 0.5, "contains": 1.0, "squad": 0.0, "n": 2}
    assert accuracy(scores, "paraphrase") == {
        "exact": None,
        "contains": None,
        "squad": None,
        "n": 0,
    }


# --- Forgetting ---------------------------------------------------------------------------------


def test_forgetting_and_transfer_by_hand():
    rows = [[1.0], [0.8, 1.0], [0.5, 0.9, 1.0]]
    # F: (max(1, .8) − .5 + 1 − .9) / 2; BWT: (.5 − 1 + .9 − 1) / 2
    assert retention(rows) == {"forgetting": 0.3, "bwt": -0.3}


def test_forgetting_looks_back_to_the_best_row_and_transfer_to_the_first():
    rows = [[0.5], [1.0, 1.0], [0.75, 1.0, 1.0]]
    assert retention(rows) == {"forgetting": 0.125, "bwt": 0.125}


def test_forgetting_is_negative_where_earlier_rounds_got_better():
    assert retention([[0.5], [0.75, 1.0]]) == {"forgetting": -0.25, "bwt": 0.25}


def test_forgetting_is_zero_when_nothing_changes():
    for shares in ([1.0, 0.4, 0.0], [0.3, 0.3]):
        rows = [shares[: r + 1] for r in range(len(shares))]
        assert retention(rows) == {"forgetting": 0.0, "bwt": 0.0}


@pytest.mark.parametrize("rows", [[], [[1.0]]])
def test_before_the_second_round_there_is_nothing_to_forget(rows):
    assert retention(rows) == {"forgetting": None, "bwt": None}


def test_rounds_without_edits_that_count_are_left_out():
    rows = [[None], [None, 1.0], [None, 0.5, 1.0]]
    assert retention(rows) == {"forgetting": 0.5, "bwt": -0.5}
    assert retention([[None], [None, 1.0]]) == {"forgetting": None, "bwt": None}


def three_rounds():
    """Edits a, b of round 1, c of round 2, d of round 3, and what was right after each round."""
    return [
        (1, [right("a"), right("b")]),
        (3, [right("a"), right("b", False), right("c", round=3)]),
        (4, [right("a", False), right("b"), right("c", round=3), right("d", round=4)]),
    ]


ALL = {(1, "a"), (1, "b"), (3, "c"), (4, "d")}


def test_the_matrix_is_lower_triangular_over_the_line_of_rounds():
    report = retention_report(three_rounds(), ALL)
    assert report["rounds"] == [1, 3, 4]
    assert report["reliability"] == {
        "matrix": [[1.0], [0.5, 1.0], [0.5, 1.0, 1.0]],
        "forgetting": 0.25,
        "bwt": -0.25,
    }
    assert report["generality"] == {
        "matrix": [[None], [None, None], [None, None, None]],
        "forgetting": None,
        "bwt": None,
    }


def test_a_superseded_edit_leaves_every_row():
    report = retention_report(three_rounds(), ALL - {(1, "a")})["reliability"]
    assert report["matrix"] == [[1.0], [0.0, 1.0], [1.0, 1.0, 1.0]]
    assert report["forgetting"] == 0.0


def test_a_round_whose_edits_are_all_superseded_leaves_the_means():
    report = retention_report(three_rounds(), {(3, "c"), (4, "d")})["reliability"]
    assert report["matrix"] == [[None], [None, 1.0], [None, 1.0, 1.0]]
    assert (report["forgetting"], report["bwt"]) == (0.0, 0.0)


def test_generality_has_a_matrix_of_its_own():
    rows = [
        (1, [right("a"), right("a", kind="paraphrase"), right("a", False, kind="paraphrase")]),
        (2, [right("a"), right("a", False, kind="paraphrase"), right("b", round=2)]),
    ]
    report = retention_report(rows, {(1, "a"), (2, "b")})
    assert report["generality"]["matrix"] == [[0.5], [0.0, None]]
    assert report["generality"]["forgetting"] == 0.5
    assert report["reliability"]["forgetting"] == 0.0


def test_reversion_counts_earlier_edits_that_hold_and_nothing_else():
    last = [
        score("a", old=True, margin=-1.0),
        score("b", old=False, margin=2.0),
        score("gone", old=True, margin=-3.0),
        score("c", round=2, old=True, margin=-1.0),  # the newest round's own
        score("d", "drift", round=0),
        score("a", "paraphrase"),
    ]
    holding = {(1, "a"), (1, "b"), (2, "c")}
    report = retention_report([(1, []), (2, last)], holding)
    assert report["reversion"] == {"replies": 0.5, "below_zero": 0.5, "n": 2}
    assert retention_report([(2, last)], holding)["reversion"] is None


def test_what_the_base_knew_is_repeated_over_the_edits_whose_old_answer_it_gives():
    """Two answers conflict there alone: a is forgotten and falls back, b was never known."""
    rows = [
        (1, [right("a", base_old=True), right("b", base_old=False)]),
        (2, [right("a", False, base_old=True, old=True), right("b", base_old=False, old=False)]),
    ]
    report = retention_report(rows, {(1, "a"), (1, "b")})
    assert report["known"] == {"forgetting": 1.0, "bwt": -1.0, "reversion": 1.0}
    assert report["reliability"]["forgetting"] == report["reversion"]["replies"] == 0.5
    report = retention_report(rows, {(1, "b")})
    assert report["known"] == {"forgetting": None, "bwt": None, "reversion": None}
    rows = [(2, rows[1][1])]  # the first that was measured: nothing to compare it with
    assert set(retention_report(rows, {(1, "a")})["known"].values()) == {None}


def test_reversion_leaves_out_margins_that_cannot_be_had():
    edits = [score("a", old=False), score("b", old=True, margin=-0.5)]
    assert reversion(edits) == {"replies": 0.5, "below_zero": 1.0, "n": 2}


# --- Locality, margins, the known subset ---------------------------------------------------------


def test_locality_columns_by_hand():
    scores = [
        score("a", "locality", leak=True, agrees=False, base_contains=True, contains=False, kl=1.0),
        score("a", "locality", leak=False, agrees=True, base_contains=True, contains=True, kl=0.5),
        score("b", "locality", leak=False, agrees=True, base_contains=False, contains=True, kl=0.0),
        score("b", "locality", leak=False, agrees=True, previous_agrees=False),
    ]
    assert locality(scores, 0.9) == {
        "leak": 0.25,
        "agreement": 0.75,
        "agreement_floor": 0.9,
        "agreement_with_previous": 0.0,
        "kept_knowledge": 0.5,
        "base_right": 2,
        "kl": 0.5,
        "n": 4,
    }


def test_locality_of_nothing_is_unknown():
    columns = locality([], None)
    assert columns.pop("n") == columns.pop("base_right") == 0
    assert set(columns.values()) == {None}


def test_margins_by_hand():
    scores = [
        score("a", margin=3.0, margin_per_token=1.5, base_margin=-2.0),
        score("b", margin=-1.0, margin_per_token=-0.5, base_margin=1.0),
        score("c", margin=4.0, margin_per_token=0.5),
        score("d"),
        score("a", "paraphrase", margin=100.0),
    ]
    assert margins(scores) == {
        "mean": 2.0,
        "median": 3.0,
        "lowest": -1.0,
        "mean_per_token": 0.5,
        "below_zero": 0.333333,
        "base_mean": -0.5,
        "base_below_zero": 0.5,
        "n": 3,
    }


def test_the_median_of_two_lies_between_them():
    assert margins([score(margin=1.0), score("b", margin=2.0)])["median"] == 1.5
    assert margins([])["median"] is None


def test_the_known_subset_keeps_the_probes_of_edits_the_base_answers_with_the_old_target():
    scores = [
        right("a", base_old=True),
        right("a", kind="paraphrase"),
        right("a", round=2, base_old=False),
        right("a", round=2, kind="paraphrase"),
        right("b", base_old=None),
        score("a", "drift", round=0),
    ]
    assert known(scores) == scores[:2]


def test_summary_by_hand():
    scores = [
        right("a", base_old=True, margin=1.0),
        right("b", False, base_old=False, margin=-1.0),
        right("a", kind="paraphrase"),
        right("a", False, kind="paraphrase"),
        right("b", False, kind="paraphrase"),
        score("a", "portability", exact=False, contains=True),
        score("b", "locality", leak=True, agrees=False),
        score("a", "subject", leak=True, agrees=True),
        score("q", "drift", round=0, leak=False, agrees=True),
    ]
    report = summary(scores, {"locality": 0.8, "subject": 0.7, "drift": 0.9})
    assert (report["reliability"], report["generality"], report["leak"]) == (0.5, 0.25, 1.0)
    assert report["portability"] == 1.0
    assert report["locality"]["probes"] == "locality"
    assert report["locality"]["agreement_floor"] == 0.8
    assert report["subject"] == locality([scores[-2]], 0.7)
    assert report["drift"] == locality([scores[-1]], 0.9)
    assert report["base_gives_old"] == 0.5
    assert report["known"] == {"edits": 1, "reliability": 1.0, "generality": 0.5, "leak": None}
    assert summary([*scores, score("a", "locality", leak=False)], {})["known"]["leak"] == 0.0
    assert report["margins"]["below_zero"] == 0.5


def test_any_edits_new_answer_may_leak_into_a_probe():
    edits = [score("a", target_new="Ann"), score("b", target_new="Bob")]
    asked = {"base_reply": "It is Cid.", "target_new": "Ann"}
    near = [
        replace(score("a", "locality", **fields), **asked, reply=reply)
        for reply, fields in [
            ("It is Cid.", {"leak": False}),
            ("It is Ann.", {"leak": True}),
            ("Bob.", {"leak": False}),  # another edit's
            ("Bob.", {"leak": False, "answers": ("Bob",)}),  # and right here
            ("He knows Bob.", {"leak": False}),  # by chance, perhaps
            ("Cid", {"leak": False}),
        ]
    ]
    assert leak_any([*edits, *near]) == pytest.approx(2 / 6, abs=1e-6)
    assert leak_any([*edits[:1], *near]) == pytest.approx(1 / 6, abs=1e-6)
    drift = replace(score("q", "drift", round=0), base_reply="no", reply="Bob")
    assert leak_any([*edits, *near, drift]) == pytest.approx(2 / 6, abs=1e-6)
    assert leak_any([*edits, drift]) == 1.0
    assert leak_any(edits) is None


def test_without_locality_probes_the_drift_questions_stand_in_and_that_is_said():
    scores = [right("a"), score("q", "drift", round=0, leak=True)]
    report = summary(scores, {"drift": 0.9})
    assert report["leak"] == 1.0
    assert report["locality"]["probes"] == "drift"
    assert report["locality"]["agreement_floor"] == 0.9


def test_without_any_probes_locality_is_unknown():
    report = summary([right("a")], {})
    assert report["leak"] is None
    assert report["drift"] is None
    assert report["subject"] is None
    assert report["generality"] is None
    nothing = dict.fromkeys(("reliability", "generality", "leak"))
    assert report["known"] == {"edits": 0, **nothing}


def test_a_score_comes_back_from_its_record():
    full = score(exact=False, answers=("x", "y"), first_tokens=(1, 2), margin=0.0, kl=0.0)
    for value in (full, score(), replace(full, answers=())):
        assert score_from_record(value.to_record()) == value
    assert "leak" not in full.to_record()
    assert full.to_record()["exact"] is False
