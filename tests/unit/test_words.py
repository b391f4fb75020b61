import copy

import pytest

from corsa.words import roughly, tell


def edit(name, *, right=True, said=False, trained=True):
    return {
        "id": name,
        "prompt": f"Who is {name}?",
        "target_new": "Ann",
        "answer": "Ann" if right else "Bob",
        "right": right,
        "already_said": said,
        "trained": trained,
    }


COLUMNS = {
    "probes": "locality",
    "leak": 0.0,
    "agreement": 1.0,
    "agreement_floor": 0.9,
    "kept_knowledge": 1.0,
    "base_right": 4,
    "kl": 0.0,
    "n": 5,
}
GOOD = {
    "edits": [edit("a"), edit("b")],
    "generality_rules": {"exact": 1.0, "n": 3},
    "retention": {
        "reliability": {"matrix": [[1.0], [1.0, 1.0]], "forgetting": 0.0, "bwt": 0.0},
        "reversion": {"replies": 0.0, "below_zero": 0.0, "n": 2},
    },
    "locality": COLUMNS,
    "drift": COLUMNS | {"probes": "drift", "n": 60},
    "training": {"steps": 12, "converged": True, "capped": False},
}


def told(changes=None):
    metrics = copy.deepcopy(GOOD)
    for path, value in (changes or {}).items():
        place = metrics
        *way, last = path.split(".")
        for key in way:
            place = place[key]
        place[last] = value
    return tell(metrics)


def about(topic, changes=None):
    return [(s.text, s.tone) for s in told(changes) if s.topic == topic]


def test_a_good_round_has_no_bad_news():
    assert {s.tone for s in told()} == {"good", "plain"}
    assert about("learned") == [("2 of 2 edits are answered exactly", "good")]
    assert about("training") == [("12 steps, every answer right at the end", "plain")]
    assert about("fell back") == []


def test_what_became_of_the_subjects_is_told():
    assert about("their subjects") == []  # earlier rounds were not asked it
    columns = COLUMNS | {"leak": 0.5, "base_right": 0, "agreement": 0.25, "n": 4}
    (leak, how), (kept, _) = about("their subjects", {"subject": columns})
    assert (leak, how) == (
        "the new answer turns up where it does not belong: in 50 % of 4 other questions",
        "bad",
    )
    assert kept.startswith("25 % of replies begin as before")


def test_one_of_them_is():
    one = {"edits": [edit("a")], "generality_rules": {"exact": 1.0, "n": 1}}
    assert about("learned", one) == [("1 of 1 edit is answered exactly", "good")]
    assert about("other wordings", one) == [("100 % of 1 paraphrase is answered exactly", "good")]


def test_a_round_that_was_solved_for_says_how():
    layers = [{"steps": 19, "subjects": 6}, {"steps": 4, "subjects": 1}]
    solved = {"edits": 8, "layers": layers, "unseen": 0.95}
    changes = {"training.solved": solved, "training.steps": 0}
    text = (
        "8 edits written as 7 neurons; 23 steps to find what subjects must carry; "
        "95 % of wordings never seen were right"
    )
    assert about("solved", changes) == [(text, "plain")]
    assert about("solved", {"training.solved": solved | {"unseen": None}}) == [
        (text.partition(";")[0] + "; 23 steps to find what subjects must carry", "plain")
    ]
    assert about("solved", {"training.solved": {"edits": 8, "passes": []}}) == []
    assert about("training", changes) == [("0 steps, every answer right at the end", "plain")]
    changes["training.steps"] = 5
    assert about("training", changes) == [("5 steps more, every answer right at the end", "plain")]


def test_what_was_not_learned_is_named():
    changes = {"edits": [edit("a"), edit("b", right=False)]}
    assert about("learned", changes) == [("1 of 2 edits are answered exactly", "bad")]
    assert about("not learned", changes) == [("Who is b? → Bob (not Ann)", "bad")]


def test_one_is_singular():
    assert about("learned", {"edits": [edit("a")]})[0][0].startswith("1 of 1 edit ")
    assert about("training", {"training.steps": 1})[0][0].startswith("1 step,")


def test_edits_that_needed_nothing_are_named():
    changes = {"edits": [edit("a", said=True), edit("b", trained=False)]}
    assert about("already said", changes) == [("answered so before: a", "plain")]
    assert about("repeated", changes) == [("right already, nothing to train: b", "plain")]


def test_unmeasured_generality_is_said_to_be_unknown():
    changes = {"generality_rules": {"exact": None, "n": 0}}
    ((text, tone),) = about("other wordings", changes)
    assert "unknown" in text
    assert tone == "plain"


@pytest.mark.parametrize(("share", "tone"), [(1.0, "good"), (0.8, "good"), (0.5, "bad")])
def test_generality_is_good_or_bad_news(share, tone):
    changes = {"generality_rules": {"exact": share, "n": 4}}
    assert about("other wordings", changes) == [
        (f"{100 * share:.0f} % of 4 paraphrases are answered exactly", tone)
    ]


def test_a_first_round_forgets_nothing():
    changes = {
        "retention": {
            "reliability": {"matrix": [[1.0]], "forgetting": None, "bwt": None},
            "reversion": None,
        }
    }
    assert about("earlier rounds", changes) == []


def test_forgetting_is_told_in_points_with_the_worst_round():
    report = {"matrix": [[1.0], [1.0, 1.0], [0.5, None, 1.0]], "forgetting": 0.5, "bwt": -0.5}
    changes = {
        "retention.reliability": report,
        "retention.reversion": {"replies": 0.5, "below_zero": 0.5, "n": 2},
    }
    assert about("earlier rounds", changes) == [
        ("at least 50 % of each earlier round is still right; forgetting is 50 points", "bad")
    ]
    assert about("fell back", changes) == [("50 % of 2 earlier edits fell back to y⁻", "bad")]


def test_leaks_lost_knowledge_and_change_are_bad_news():
    changes = {
        "locality.leak": 0.2,
        "locality.kept_knowledge": 0.5,
        "locality.agreement": 0.6,
    }
    assert [tone for _, tone in about("neighbours", changes)] == ["bad"] * 3
    assert [tone for _, tone in about("neighbours")] == ["good"] * 3
    assert "20 % of 5 neighbouring prompts" in about("neighbours", changes)[0][0]
    assert "(rounding alone: 90 %)" in about("neighbours")[2][0]


def test_agreement_is_judged_beside_its_floor():
    for floor, tone in ((0.7, "good"), (0.9, "bad"), (None, "bad")):
        changes = {"drift.agreement": 0.66, "drift.agreement_floor": floor}
        assert about("everything else", changes)[-1][1] == tone
    assert "rounding" not in about("everything else", {"drift.agreement_floor": None})[-1][0]


def test_unmeasured_locality_is_not_told_as_drift_twice():
    changes = {"locality.probes": "drift"}
    assert about("neighbours", changes) == []
    assert len(about("everything else", changes)) == 3


def test_a_round_that_did_not_converge_says_what_to_raise():
    capped = {"training": {"steps": 600, "converged": False, "capped": True}}
    ((text, tone),) = about("training", capped)
    assert tone == "bad"
    assert text.startswith("stopped at the cap after 600 steps")
    assert text.endswith("raise max_visits")
    ended = {"training": {"steps": 10, "converged": False, "capped": False}}
    ((text, _),) = about("training", ended)
    assert text.endswith("raise epochs")


def test_a_method_that_does_not_train_tells_nothing_of_training():
    assert about("training", {"training": {"facts": 2, "tokens": 30}}) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (29, "29 s"), (31, "1 min"), (3570, "1 h 0 min"), (9e3, "2 h 30 min")],
)
def test_a_guessed_time_is_told_in_round_numbers(seconds, text):
    assert roughly(seconds) == text
