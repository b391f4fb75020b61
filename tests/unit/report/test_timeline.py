"""What happened to a store, in order."""

from corsa.files import seal
from corsa.report.timeline import happened
from report_stores import answered, commit, fact, store, two_rounds


def entries(ledger):
    rounds = {id: ledger.round(id) for id in ledger.ids()}
    return happened(ledger, rounds, [made.id for made in ledger.lineage(ledger.head)])


def briefly(ledger):
    return [(entry.title, entry.badge, entry.on_line) for entry in entries(ledger)]


def test_a_line_of_rounds(tmp_path):
    ledger = two_rounds(tmp_path / "s")
    assert briefly(ledger) == [("Round 1", "", True), ("Round 2", "in use", True)]
    first, second = entries(ledger)
    assert first.text == "3 facts by corsa, on the base model"
    assert second.text == "2 facts by corsa, continuing round 1"
    assert second.at == "2026-11-02T10:00:00+00:00"
    assert second.numbers["reliability"] == 0.5


def test_ways_back_branches_and_rounds_that_missed_what_was_asked(tmp_path):
    ledger = two_rounds(tmp_path / "s")
    ledger.note({"event": "rollback", "from": 2, "to": 1, "at": "2026-11-03T10:00:00+00:00"})
    ledger.move_head(1)
    late = fact("late", round=3)
    commit(ledger, [late], [answered(late, "no")], missed=["reliability 0 < 0.95"])
    assert briefly(ledger) == [
        ("Round 1", "in use", True),
        ("Round 2", "another branch", False),
        ("From round 2 to round 1", "put into use", False),
        ("Round 3", "not accepted", False),
    ]
    assert entries(ledger)[-1].text.endswith("misses reliability 0 < 0.95")


def test_a_round_the_journal_does_not_know_is_not_lost(tmp_path):
    ledger = store(tmp_path / "s")
    a = fact("a")
    commit(ledger, [a], [answered(a)], noted=False)
    assert briefly(ledger) == [("Round 1", "in use", True)]


def test_unfinished_rounds_come_last_and_broken_ones_are_no_error(tmp_path):
    ledger = two_rounds(tmp_path / "s")
    for folder, planned in (("aside/0001", True), ("pending", False), ("aside/0002", None)):
        place = ledger.path / folder
        place.mkdir(parents=True)
        text = seal({"fingerprint": "f", "round": 3})
        (place / "ticket.json").write_text(text if planned is not None else "broken")
        if planned:
            (place / "plan.json").write_text(seal({"plan": [{}, {}]}))
    assert briefly(ledger)[2:] == [
        ("Round 3", "put aside", False),
        ("Round 3", "unfinished", False),
    ]
    aside, pending = entries(ledger)[2:]
    assert aside.text == "2 facts were planned; it was put into aside/0001 when another was begun."
    assert pending.text.startswith("Nothing was planned yet; under way, or interrupted")


def test_what_a_killed_process_had_committed_is_not_unfinished(tmp_path):
    ledger = two_rounds(tmp_path / "s")
    ledger.pending.mkdir()
    (ledger.pending / "ticket.json").write_text(seal({"fingerprint": "f", "round": 2}))
    assert len(entries(ledger)) == 2
