import json
import random
import re
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock

from corsa.edits import Edit, Probe
from corsa.errors import CorruptError, LockedError, StoreError
from corsa.files import json_lines, seal, sha256_content, sha256_file
from corsa.ledger import Ledger
from corsa.planning import PlannedEdit

MODEL = {"name": "tiny", "revision": None, "sha256": "0" * 64}
RECORD = {"artefact": {"kind": "lora"}, "method": "corsa", "config": {"rank": 4}}
STRANGE = 'line one\nline two\r\n\u2028\u2029\x85 "quoted" \\ ü 语 \U0001f600'


def planned(round_id=1, prompt="Who leads X?", target="Ann", **fields):
    edit = Edit(prompt, target, target_old="Bob", **fields)
    return PlannedEdit(round_id, edit, "given", already_said=False, reply_before="Bob.")


def add(ledger, parent=None, plan=None, generations=(), number=None):
    """Commit a round on top of the head, or of another parent, and put it into use."""
    id = ledger.next_id() if number is None else number
    made = ledger.commit(
        id,
        ledger.head if parent is None else parent,
        RECORD,
        plan or [planned(id)],
        {"reliability": 1.0},
        list(generations) or [{"prompt": "p", "reply": "r"}],
        lambda folder: (folder / "weights").write_bytes(str(id).encode()),
    )
    ledger.note({"event": "round", "round": id, "round_sha256": made.record["sha256"]})
    ledger.move_head(id)
    return made


@pytest.fixture
def ledger(tmp_path):
    return Ledger.create(tmp_path / "store", MODEL)


# --- Making and opening ---------------------------------------------------------------------------


def test_a_new_store_is_empty(ledger):
    assert (ledger.head, ledger.ids(), ledger.next_id(), ledger.journal()) == (0, [], 1, [])
    assert ledger.lineage(0) == []
    assert Ledger(ledger.path).model == MODEL


def test_where_nothing_is_there_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        Ledger(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_store_is_not_made_among_other_things(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(StoreError, match="holds other things"):
        Ledger.create(tmp_path, MODEL)
    with pytest.raises(StoreError, match="is a file"):
        Ledger.create(tmp_path / "photo.jpg", MODEL)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_of_two_makings_at_once_the_second_opens_what_the_first_made(tmp_path, monkeypatch):
    from corsa import ledger as module

    path, check = tmp_path / "store", module.check_free

    def meanwhile(place):
        check(place)
        monkeypatch.setattr(module, "check_free", check)
        add(Ledger.create(path, MODEL))

    monkeypatch.setattr(module, "check_free", meanwhile)
    second = Ledger.create(path, MODEL)
    assert (second.head, second.ids()) == (1, [1])
    assert second.verify() == []
    assert Ledger.create(path, MODEL).head == 1
    with pytest.raises(StoreError, match="was made for 'tiny' meanwhile"):
        Ledger.create(path, MODEL | {"sha256": "1" * 64})


def test_a_store_is_not_made_while_somebody_else_writes_there(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    with FileLock(path / ".lock"), pytest.raises(LockedError):
        Ledger.create(path, MODEL)
    assert [entry.name for entry in path.iterdir()] == [".lock"]
    assert Ledger.create(path, MODEL).head == 0


@pytest.mark.parametrize("cut_short_at", [0, 1])
def test_a_making_that_was_killed_may_be_finished(tmp_path, monkeypatch, cut_short_at):
    from corsa import ledger as module

    done = []
    write = module.write_atomically

    def killed(path, text):
        if len(done) == cut_short_at:
            (path.parent / f".{path.name}.a1b2c3d4.writing").write_text("half")
            raise KeyboardInterrupt
        done.append(path)
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            Ledger.create(tmp_path / "store", MODEL)
    with pytest.raises(StoreError, match="there is no store"):
        Ledger(tmp_path / "store")
    assert Ledger.create(tmp_path / "store", MODEL).head == 0


def test_another_format_is_refused(ledger):
    (ledger.path / "store.json").write_text(seal({"format": 99, "model": MODEL}), "utf-8")
    with pytest.raises(StoreError, match="format 99"):
        Ledger(ledger.path)


# --- Rounds ---------------------------------------------------------------------------------------


def test_a_round_comes_back_as_it_was_committed(ledger):
    plan = [planned(1, locality=(Probe("q", ("a", "b")),), metadata={"relation": "head"})]
    made = add(ledger, plan=plan)
    read = Ledger(ledger.path).round(1)
    assert read == made
    assert (read.id, read.parent, read.kind) == (1, 0, "lora")
    assert read.edits() == plan
    assert read.metrics()["reliability"] == 1.0
    assert read.generations() == [{"prompt": "p", "reply": "r"}]
    assert read.record["config"] == {"rank": 4}
    assert read.record["artefact"] == {"kind": "lora", "files": ["weights"]}


def test_a_round_names_the_hash_of_every_file_and_of_its_parent(ledger):
    first, second = add(ledger), add(ledger)
    for made in (first, second):
        files = {p.name for p in made.folder.iterdir()} - {"round.json"}
        assert made.record["files"] == {n: sha256_file(made.folder / n) for n in files}
    assert first.record["parent_sha256"] is None
    assert second.record["parent_sha256"] == first.record["sha256"]


def test_strange_texts_survive_the_files_of_a_round(ledger):
    plan = [planned(1, prompt=STRANGE, target=STRANGE, metadata={"note": STRANGE})]
    made = add(ledger, plan=plan, generations=[{"prompt": STRANGE, "reply": STRANGE}] * 2)
    assert made.edits() == plan
    assert made.generations() == [{"prompt": STRANGE, "reply": STRANGE}] * 2
    assert (made.folder / "edits.jsonl").read_bytes().count(b"\n") == 1
    assert (made.folder / "generations.jsonl").read_bytes().count(b"\n") == 2


def test_committing_leaves_the_head_where_it_is(ledger):
    ledger.commit(1, 0, RECORD, [planned()], {}, [], lambda folder: None)
    assert (ledger.head, ledger.ids()) == (0, [1])


def test_a_failing_artefact_leaves_no_round(ledger):
    def fail(folder):
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        ledger.commit(1, 0, RECORD, [planned()], {}, [], fail)
    assert ledger.ids() == []
    assert list((ledger.path / "rounds").iterdir()) == []


def test_rounds_form_a_tree(ledger):
    for parent in (0, 1, 1, 3, 0):
        add(ledger, parent)
    assert ledger.ids() == [1, 2, 3, 4, 5]
    assert [r.id for r in ledger.lineage(4)] == [1, 3, 4]
    assert [r.id for r in ledger.lineage(2)] == [1, 2]
    assert [r.id for r in ledger.lineage(5)] == [5]
    ledger.move_head(2)
    assert ledger.head == 2
    ledger.move_head(0)
    assert ledger.head == 0


def test_numbers_of_rounds_are_never_used_twice(ledger):
    add(ledger)
    add(ledger)
    ledger.move_head(1)
    shutil.rmtree(ledger.round(2).folder)
    assert ledger.ids() == [1]
    assert ledger.next_id() == 3


def test_more_rounds_than_the_folders_have_digits(ledger):
    add(ledger, number=9999)
    add(ledger)
    assert ledger.ids() == [9999, 10000]
    assert ledger.next_id() == 10001


def test_a_round_that_is_not_there_is_named_with_those_that_are(ledger):
    with pytest.raises(StoreError, match=r"no round 1 .* none yet"):
        ledger.round(1)
    add(ledger)
    for wrong in (2, -1):
        with pytest.raises(StoreError, match=f"no round {wrong} .* it has 1"):
            ledger.round(wrong)
    with pytest.raises(StoreError, match="no round 7"):
        ledger.move_head(7)
    assert ledger.head == 1


def test_the_journal_is_a_chain(ledger):
    add(ledger)
    ledger.note({"event": "rollback", "from": 1, "to": 0})
    first, second = ledger.journal()
    assert first["before"] is None
    assert second["before"] == first["sha256"]
    assert second["event"] == "rollback"


# --- What is not as it was written ----------------------------------------------------------------

_SEALED = {
    "store.json": lambda store: Ledger(store.path),
    "HEAD": lambda store: store.head,
    "rounds/0001/round.json": lambda store: store.round(1),
    "rounds/0001/metrics.json": lambda store: store.round(1).metrics(),
    "rounds/0001/edits.jsonl": lambda store: store.round(1).edits(),
    "rounds/0001/generations.jsonl": lambda store: store.round(1).generations(),
}


@pytest.mark.parametrize("name", _SEALED)
def test_a_changed_file_is_named(ledger, name):
    add(ledger, plan=[planned(target="Anna Q.")], generations=[{"prompt": "p", "reply": "12345"}])
    path, read = ledger.path / name, _SEALED[name]
    read(ledger)
    whole = path.read_bytes()
    changes = {
        "a digit": re.sub(rb"\d", lambda d: b"%d" % (9 - int(d[0])), whole, count=1),
        "a letter": whole.replace(b"r", b"s", 1),
        "cut short": whole[: len(whole) // 2],
        "empty": b"",
        "not UTF-8": whole.replace(b"r", b"\xff", 1),
        "reformatted": whole.replace(b": ", b":  ", 1),
        "another value": b"[]\n",
        "a number": b"7\n",
    }
    for change in changes.values():
        assert change != whole
        path.write_bytes(change)
        with pytest.raises(CorruptError, match=f"{path} is not what was written"):
            read(ledger)
    path.unlink()
    with pytest.raises(
        StoreError, match="there is no store" if name == "store.json" else "missing"
    ):
        read(ledger)
    path.write_bytes(whole)
    read(ledger)


def test_a_file_without_its_seal_is_refused(ledger):
    path = ledger.path / "HEAD"
    content = json.loads(path.read_text("utf-8"))
    del content["sha256"]
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
    with pytest.raises(CorruptError, match="HEAD is not what was written"):
        _ = ledger.head


def test_verifying_finds_nothing_in_a_whole_store(ledger):
    assert ledger.verify() == []
    add(ledger)
    add(ledger)
    assert ledger.verify() == []


@pytest.mark.parametrize(
    "name", [*_SEALED, "rounds/0001/weights", "rounds/0002/weights", "journal.jsonl"]
)
def test_verifying_finds_any_flipped_bit(ledger, name):
    add(ledger)
    add(ledger)
    path = ledger.path / name
    whole = path.read_bytes()
    for place in {0, len(whole) // 3, len(whole) - 1}:
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        assert name in {problem.file for problem in ledger.verify()}
    path.write_bytes(whole)
    assert ledger.verify() == []


@pytest.mark.parametrize("name", ["HEAD", "store.json", "journal.jsonl"])
def test_verifying_finds_a_flipped_bit_in_any_byte(ledger, name):
    add(ledger)
    add(ledger)
    ledger.note({"event": "rollback", "from": 2, "to": 1})
    path, chooser = ledger.path / name, random.Random(0)
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << chooser.randrange(8)
        path.write_bytes(flipped)
        assert name in {problem.file for problem in ledger.verify()}, (place, bytes(flipped))
    path.write_bytes(whole)
    assert ledger.verify() == []


def rechained(events):
    """A journal of these events whose hashes are right."""
    before, written = None, []
    for event in events:
        entry = {k: v for k, v in event.items() if k != "sha256"} | {"before": before}
        before = sha256_content(entry)
        written.append(entry | {"sha256": before})
    return json_lines(written)


@pytest.mark.parametrize("missing", ["event", "round", "round_sha256"])
def test_verifying_survives_an_event_without_a_key(ledger, missing):
    add(ledger)
    path = ledger.path / "journal.jsonl"
    (event,) = ledger.journal()
    del event[missing]
    path.write_text(rechained([event]), "utf-8")
    assert "journal.jsonl" in {problem.file for problem in ledger.verify()}
    assert ledger.next_id() == 2


_NO_EVENTS = [
    "[]",
    "7",
    "null",
    '"x"',
    "{}",
    '{"sha256": null, "before": null}',
    "{",
    "NaN",
    "\\ud800",
]


@pytest.mark.parametrize("line", [*_NO_EVENTS, '{"before": null, "x": NaN, "sha256": null}'])
@pytest.mark.parametrize("use", [Ledger.next_id, Ledger.journal, lambda s: s.note({"event": "x"})])
def test_a_line_that_is_no_event_is_a_clear_error(ledger, line, use):
    add(ledger)
    path = ledger.path / "journal.jsonl"
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    assert [problem.file for problem in ledger.verify()] == ["journal.jsonl"]
    with pytest.raises(CorruptError, match=r"journal\.jsonl is not what was written"):
        use(ledger)


@pytest.mark.parametrize("name", ["HEAD", "rounds/0001/round.json"])
def test_a_sealed_file_in_the_place_of_another_is_found(ledger, name):
    add(ledger)
    add(ledger)
    other = "store.json" if name == "HEAD" else "rounds/0002/round.json"
    shutil.copy(ledger.path / other, ledger.path / name)
    assert name in {problem.file for problem in ledger.verify()}


def test_verifying_ends_though_a_round_is_its_own_parent(ledger):
    for _ in range(3):
        add(ledger)
    shutil.rmtree(ledger.path / "rounds/0002")
    shutil.copytree(ledger.path / "rounds/0003", ledger.path / "rounds/0002")
    assert "rounds/0002/round.json" in {problem.file for problem in ledger.verify()}


def test_verifying_finds_a_round_whose_folder_is_gone(ledger):
    add(ledger)
    add(ledger)
    ledger.move_head(1)
    shutil.rmtree(ledger.path / "rounds/0002")
    assert [problem.file for problem in ledger.verify()] == ["rounds/0002"]
    shutil.rmtree(ledger.path / "rounds")
    assert {"HEAD", "rounds/0001", "rounds/0002"} <= {p.file for p in ledger.verify()}


def test_verifying_finds_that_the_journal_is_gone(ledger):
    path = ledger.path / "journal.jsonl"
    assert ledger.verify() == []
    add(ledger)
    path.unlink()
    assert [tuple(problem) for problem in ledger.verify()] == [("journal.jsonl", "it is missing")]


def test_verifying_finds_that_the_journal_was_cut_short(ledger):
    for _ in range(3):
        add(ledger)
    path = ledger.path / "journal.jsonl"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:1]), "utf-8")
    assert [tuple(problem) for problem in ledger.verify()] == [
        ("journal.jsonl", "it does not know round 2, 3")
    ]


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_kill_between_committing_and_noting_leaves_a_whole_store(ledger, rounds):
    for _ in range(rounds):
        add(ledger)
    id = ledger.next_id()
    ledger.commit(id, ledger.head, RECORD, [planned(id)], {}, [], lambda folder: None)
    assert ledger.verify() == []
    ledger.note({"event": "rollback", "from": ledger.head, "to": id})  # put into use by hand
    ledger.move_head(id)
    assert ledger.verify() == []


def test_verifying_finds_what_was_added_and_what_is_missing(ledger):
    made = add(ledger)
    (made.folder / "extra").touch()
    (made.folder / "weights").unlink()
    assert {problem.file for problem in ledger.verify()} == {
        "rounds/0001/extra",
        "rounds/0001/weights",
    }


def test_verifying_finds_a_parent_that_was_exchanged(ledger, tmp_path):
    add(ledger)
    add(ledger)
    other = Ledger.create(tmp_path / "other", MODEL)
    add(other, plan=[planned(target="Eve")])
    shutil.rmtree(ledger.round(1).folder)
    shutil.copytree(other.round(1).folder, ledger.path / "rounds" / "0001")
    assert "rounds/0002/round.json" in {problem.file for problem in ledger.verify()}


# --- One writer -----------------------------------------------------------------------------------

_HOLD = """
import sys
from pathlib import Path
from corsa.ledger import Ledger
with Ledger(Path(sys.argv[1])).writing():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_only_one_writes_at_a_time_and_a_dead_one_does_not(ledger):
    command = [sys.executable, "-c", _HOLD, str(ledger.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            with (
                pytest.raises(LockedError, match=f"another process is writing to {ledger.path}"),
                ledger.writing(),
            ):
                pass
            assert ledger.head == 0  # readers need no lock
        finally:
            other.kill()
    with ledger.writing():
        pass


def test_a_second_ledger_of_the_same_process_is_kept_out_too(ledger):
    with ledger.writing(), pytest.raises(LockedError), Ledger(ledger.path).writing():
        pass
    with Ledger(ledger.path).writing():
        pass


def test_the_lock_goes_when_writing_fails(ledger):
    with pytest.raises(ZeroDivisionError), ledger.writing():
        raise ZeroDivisionError
    with ledger.writing():
        pass


def test_a_writer_sweeps_away_what_a_killed_one_left_and_nothing_else(ledger):
    add(ledger)
    half = ledger.path / "rounds" / ".0002.writing"
    half.mkdir()
    (half / "weights").touch()
    (ledger.path / ".HEAD.a1b2c3d4.writing").touch()
    (ledger.path / ".git").mkdir()
    (ledger.path / ".gitignore").touch()
    with ledger.writing():
        pass
    assert not half.exists()
    assert {p.name for p in ledger.path.iterdir() if p.name.startswith(".")} == {
        ".git",
        ".gitignore",
        ".lock",
    }
    assert ledger.verify() == []
