"""What became of each fact, from the rounds on disk."""

import pytest

from corsa.report.facts import count_right, tell_facts
from report_stores import answered, commit, fact, probed, store, two_rounds


@pytest.fixture
def told(tmp_path):
    return tell_facts(two_rounds(tmp_path / "s").lineage(2))


def test_each_fact_has_the_state_that_its_answers_say(told):
    states = {(f.planned.round, f.planned.edit.id): (f.state, f.note) for f in told.facts}
    assert states == {
        (1, "f0"): ("right", ""),
        (1, "f1"): ("replaced", "by round 2: newer 1"),
        (1, "f2"): ("forgotten", "gives the old answer"),
        (2, "f3"): ("right", ""),
        (2, "f4"): ("not learned", ""),
    }
    assert [f.planned.edit.id for f in told.asked] == ["f0", "f2", "f3", "f4"]


def test_what_was_asked_in_a_facts_own_round_alone_is_kept_with_that_round(told):
    first = next(f for f in told.facts if f.planned.edit.id == "f0")
    assert [(p.score.kind, p.verdict, p.after) for p in first.probes] == [
        ("paraphrase", "wrong", 2),
        ("locality", "leaked", 1),
        ("portability", "right", 1),
    ]
    assert count_right(told.asked, "paraphrase") == (0, 1)


def test_leaks_and_changes_are_those_of_the_model_in_use(told):
    assert [(a.score.prompt, a.about) for a in told.leaked] == [
        ("Who is prince?", "Prompt 1: second")
    ]
    assert [(a.score.prompt, a.verdict, a.about) for a in told.changed] == [
        ("Who is prince?", "leaked", "Prompt 1: second"),
        ("Capital of Italy?", "lost", ""),
    ]
    assert told.elsewhere == 3


@pytest.mark.parametrize(
    ("reply", "base", "verdict"),
    [
        ("Rome", "Rome", "as before"),
        ("Oslo", "Rome", "lost"),
        ("Rome", "Oslo", "now right"),
        ("Oslo", "Bern", "other words"),
    ],
)
def test_verdicts_on_other_answers(tmp_path, reply, base, verdict):
    a = fact("a")
    ledger = store(tmp_path / "s")
    commit(ledger, [a], [answered(a), probed(a, "locality", "Where?", reply, base=base)])
    (told,) = tell_facts(ledger.lineage(1)).facts
    assert [p.verdict for p in told.probes] == [verdict]


def test_no_rounds_tell_nothing():
    assert tell_facts([]) == ([], [], [], 0)
