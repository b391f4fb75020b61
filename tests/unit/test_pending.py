"""An unfinished round is gone on with if it is the same one and every bit is as it was written."""

import pytest

from corsa.config import Config
from corsa.edits import Edit
from corsa.ledger import Ledger
from corsa.pending import Pending
from corsa.planning import PlannedEdit

MODEL = {"name": "tiny", "revision": None, "sha256": "0" * 64}
EDITS = [Edit("Who leads X?", "Ann", target_old="Bob")]
OTHERS = [Edit("Who leads Y?", "Eve", target_old="Bob")]
RECORD = {"artefact": {"kind": "lora"}, "method": "corsa", "config": {}}


class Heard:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def ledger(tmp_path):
    return Ledger.create(tmp_path / "store", MODEL)


def planned(round_id, edits=EDITS, reply="Bob."):
    return [
        PlannedEdit(round_id, edit, "given", already_said=False, reply_before=reply)
        for edit in edits
    ]


def started(ledger, edits=EDITS):
    """A round that was interrupted with a plan, a checkpoint and a remembered value."""
    pending = Pending(ledger, Config(), edits)
    pending.begin(Heard())
    pending.plan(lambda number: planned(number, edits))
    (pending.folder / "step-000001").mkdir()
    (pending.folder / "step-000001" / "state").touch()
    (pending.folder / "reference.json").touch()
    return pending


def again(ledger, edits=EDITS, **more):
    heard = Heard()
    pending = Pending(ledger, Config(), edits)
    assert pending.finished() is None
    pending.begin(heard, **more)
    return pending, heard.said


def names(folder):
    return sorted(path.name for path in folder.iterdir())


WHOLE = ["plan.json", "reference.json", "step-000001", "ticket.json"]


@pytest.mark.parametrize("discard", [False, True])
def test_the_same_round_goes_on_with_its_plan(ledger, discard):
    id = started(ledger).id
    pending, said = again(ledger, discard=discard)
    assert (pending.id, said) == (id, [])
    assert pending.plan(lambda _id: pytest.fail("asked again")) == planned(id)
    assert names(pending.folder) == WHOLE


def test_another_round_puts_it_aside(ledger):
    started(ledger)
    pending, said = again(ledger, OTHERS)
    assert names(pending.folder) == ["ticket.json"]
    assert names(ledger.path / "aside" / "0001") == WHOLE
    assert len(said) == 1


def test_discarding_removes_it_and_what_was_put_aside(ledger):
    started(ledger)
    started(ledger, OTHERS)
    assert names(ledger.path / "aside") == ["0001"]
    pending, said = again(ledger, discard=True)  # the one in pending is of the others
    assert names(pending.folder) == ["ticket.json"]
    assert not (ledger.path / "aside").exists()
    assert said == []


def test_discarding_goes_on_with_the_same_round_and_removes_what_was_put_aside(ledger):
    started(ledger)
    started(ledger, OTHERS)
    pending, _ = again(ledger, OTHERS, discard=True)
    assert names(pending.folder) == WHOLE
    assert not (ledger.path / "aside").exists()


def test_a_broken_ticket_is_nothing_to_go_on_with(ledger):
    started(ledger)
    path = ledger.pending / "ticket.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        pending, said = again(ledger)
        assert (names(pending.folder), said) == (["ticket.json"], [])
        assert path.read_bytes() == whole
        assert not (ledger.path / "aside").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", "7", '{"round": 1}'])
def test_a_ticket_that_is_none_is_nothing_to_go_on_with(ledger, content):
    started(ledger)
    (ledger.pending / "ticket.json").write_text(content)
    pending, _ = again(ledger)
    assert names(pending.folder) == ["ticket.json"]


@pytest.mark.parametrize("place", [0, 60, 200, -2])
def test_a_broken_plan_is_made_again_and_what_belongs_to_it_goes(ledger, place):
    started(ledger)
    path = ledger.pending / "plan.json"
    broken = bytearray(path.read_bytes())
    broken[place] ^= 1
    path.write_bytes(broken)
    pending, _ = again(ledger)
    new = planned(pending.id, reply="Another.")
    assert pending.plan(lambda _id: new) == new
    assert names(pending.folder) == ["plan.json", "ticket.json"]
    assert pending.plan(lambda _id: pytest.fail("asked again")) == new


def test_a_missing_plan_is_made_again_and_what_belongs_to_it_goes(ledger):
    started(ledger)
    (ledger.pending / "plan.json").unlink()
    pending, _ = again(ledger)
    pending.plan(planned)
    assert names(pending.folder) == ["plan.json", "ticket.json"]


@pytest.mark.parametrize("discard", [False, True])
def test_a_round_that_was_committed_but_not_noted_is_noted_by_the_next(ledger, discard):
    pending = started(ledger)
    made = ledger.commit(pending.id, 0, RECORD, planned(pending.id), {}, [], lambda folder: None)
    assert ledger.journal() == []  # killed here
    assert ledger.verify() == []
    following, _ = again(ledger, OTHERS, discard=discard)
    assert following.id == made.id + 1
    (event,) = ledger.journal()
    assert (event["round"], event["round_sha256"]) == (made.id, made.record["sha256"])
    ledger.move_head(made.id)
    assert ledger.verify() == []
    assert names(ledger.pending) == ["ticket.json"]


def test_a_round_that_was_committed_is_finished(ledger):
    pending = started(ledger)
    made = ledger.commit(pending.id, 0, RECORD, planned(pending.id), {}, [], lambda folder: None)
    again = Pending(ledger, Config(), EDITS)
    assert again.finished() == made
    again.finish(made, {"train": 1.0}, 7)
    assert (ledger.head, len(ledger.journal())) == (made.id, 1)
    assert not ledger.pending.exists()
    assert ledger.verify() == []
