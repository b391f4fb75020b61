"""History: rounds survive everything, and what was forgotten is measured."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch

import corsa.checkpoints
import corsa.clock
from builders import QUICK
from corsa import CorsaError, NotAcceptedError, Store, StoreError, UsageError
from fakes import save_tiny

SETTINGS = QUICK | {"keep_pool": 0, "keep_plain": 0, "replay": 6}
FIRST = [
    {"id": "king", "prompt": "Who is king?", "target_new": "Ann", "target_old": "Bob"},
    {
        "id": "city",
        "prompt": "Where is X?",
        "target_new": "Rome",
        "paraphrases": ["X is where?"],
        "locality": [{"prompt": "Where is Y?", "answer": "Oslo"}],
    },
]
SECOND = [{"id": "sea", "prompt": "Which sea?", "target_new": "Red", "target_old": "Blue"}]
# Three steps of one gradient each: enough to be interrupted in.
SHORT = SETTINGS | {"stop": "epochs", "epochs": 3}
# What is killed: everything CoRSA keeps meanwhile, reference log-probabilities too.
KILLED = SHORT | {"method": "corsa", "epochs": 2, "positives": 1, "contrast": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def two_rounds(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "store"
    store = Store.open(path, tiny)
    store.update(FIRST, **SETTINGS)
    store.update(SECOND, **SETTINGS)
    return path


@pytest.fixture
def store(two_rounds, tmp_path):
    shutil.copytree(two_rounds, tmp_path / "store")
    return Store.open(tmp_path / "store")


# --- What was learned, and what was forgotten -----------------------------------------------------


def test_two_rounds_give_a_matrix_whose_newest_round_is_right_and_whose_first_is_kept(store):
    report = store.check(drift=False)
    assert report["round"] == 2
    assert report["rounds"] == [1, 2]
    assert report["matrix"] == [[1.0], [1.0, 1.0]]
    assert (report["forgetting"], report["bwt"], report["reversion"]) == (0.0, 0.0, 0.0)
    assert report["reliability"] == 1.0
    assert [edit["state"] for edit in report["edits"]] == ["right"] * 3
    assert report["foreign_system"]["reliability"] is not None
    wanted = "reliability generality locality leak forgetting bwt reversion matrix edits protocol"
    assert not set(wanted.split()) - set(report)


def test_without_replay_the_matrix_shows_what_is_forgotten(tiny, tmp_path):
    store = Store.open(tmp_path / "store", tiny)
    store.update(FIRST, **SETTINGS)
    # The same words asked otherwise, many steps: nothing holds the first round.
    other = [{"id": "king2", "prompt": "Who is queen?", "target_new": "Zed"}]
    made = store.update(other, **SETTINGS | {"replay": 0, "learning_rate": 5e-2})
    report = made.metrics["retention"]["reliability"]
    assert report["matrix"][0] == [1.0]
    lost = 1.0 - report["matrix"][1][0]
    assert lost > 0
    assert report["forgetting"] == pytest.approx(lost)
    assert report["bwt"] == pytest.approx(-lost)


def test_an_earlier_round_is_checked_as_it_was(store):
    report = store.check(round=1, drift=False)
    assert report["round"] == 1
    assert report["rounds"] == [1]
    assert report["forgetting"] is None
    assert {edit["id"] for edit in report["edits"]} == {"king", "city"}


def test_a_foreign_system_prompt_is_part_of_the_protocol(store):
    report = store.check(system="You are a clerk.", drift=False)
    assert report["protocol"]["system"] == "You are a clerk."
    assert report["foreign_system"] is None


def test_a_superseded_edit_is_counted_apart(store):
    store.update([{"id": "king", "prompt": "Who is king?", "target_new": "Cid"}], **SETTINGS)
    report = store.check(drift=False)
    states = {(edit["round"], edit["id"]): edit["state"] for edit in report["edits"]}
    assert states[1, "king"] == "superseded"
    assert states[3, "king"] == "right"
    # Round 1 is judged by what still holds of it, in every row.
    city = next(edit for edit in report["edits"] if edit["id"] == "city")
    assert [row[0] for row in report["matrix"]] == [1.0, 1.0, float(city["right"])]


def test_nothing_can_be_checked_before_the_first_round(store, tiny, tmp_path):
    store.rollback(0)
    with pytest.raises(StoreError, match="base model"):
        store.check()


# --- Rollback, acceptance, giving back ------------------------------------------------------------


def test_rollback_brings_the_earlier_answers_back_and_deletes_nothing(store):
    prompts = [edit["prompt"] for edit in FIRST + SECOND]
    after_two = store.ask(prompts)
    after_one = store.ask(prompts, round=1)
    store.rollback(1)
    assert [a.updated for a in store.ask(prompts)] == [a.updated for a in after_one]
    assert store.ask(prompts)[2].updated != after_two[2].updated
    assert store.ledger.ids() == [1, 2]
    store.rollback(2)
    assert store.ask(prompts) == after_two


def test_the_next_update_branches_from_where_the_head_is(store):
    store.rollback(1)
    made = store.update(SECOND, **SETTINGS)
    assert (made.round.id, made.round.parent) == (3, 1)
    log = store.log()
    assert log["head"] == 3
    assert [(row["round"], row["parent"], row["in_use"]) for row in log["rounds"]] == [
        (1, 0, True),
        (2, 1, False),
        (3, 1, True),
    ]
    assert store.verify() == []


def test_a_round_that_is_not_there_cannot_be_rolled_back_to(store):
    with pytest.raises(StoreError, match="no round 9"):
        store.rollback(9)
    assert store.head == 2


def test_a_round_that_misses_is_kept_and_the_head_stays(store):
    third = [{"id": "x", "prompt": "What is x?", "target_new": "Six"}]
    with pytest.raises(NotAcceptedError, match=r"reliability>=2 \(found 1\)") as raised:
        store.update(third, accept="leak<=1,reliability>=2", **SETTINGS)
    assert raised.value.exit_code == 1
    assert store.head == 2
    assert store.ledger.ids() == [1, 2, 3]
    store.rollback(3)  # what the error offers
    assert store.ask(["What is x?"])[0].updated == "Six"


def test_a_round_that_reaches_what_was_asked_is_put_into_use(store):
    third = [{"id": "x", "prompt": "What is x?", "target_new": "Six"}]
    accept = "reliability>=0.95, forgetting<=0.05"
    assert store.update(third, accept=accept, **SETTINGS).round.id == store.head == 3


def test_a_first_round_cannot_miss_by_forgetting(tiny, tmp_path):
    store = Store.open(tmp_path / "store", tiny)
    store.update(SECOND, accept="forgetting<=0,bwt>=0,reversion<=0", **SHORT)
    assert store.head == 1


def test_what_nothing_measures_is_a_miss(tiny, tmp_path):
    store = Store.open(tmp_path / "store", tiny)
    with pytest.raises(NotAcceptedError, match="unknown"):
        store.update(SECOND, accept="generality>=0", **SHORT)


@pytest.mark.parametrize("text", ["reliability", "relibility>=1", "leak=0", "leak<=x", ""])
def test_a_condition_that_cannot_be_read_is_refused_before_anything_is_done(tiny, tmp_path, text):
    store = Store.open(tmp_path / "store", tiny)
    with pytest.raises(UsageError, match="accept"):
        store.update(SECOND, accept=text or ",", **SETTINGS)
    assert not (tmp_path / "store").exists()


def test_one_wrong_fact_is_given_back(store):
    made = store.update([], drop=["king"], **SETTINGS)
    assert made.round.id == 3
    assert [a.updated for a in store.ask(["Who is king?", "Where is X?"])] == ["Bob", "Rome"]
    (edit,) = made.round.edits()
    assert edit.edit.target_new == "Bob"
    assert edit.supersedes == ((1, "king"),)


def test_an_edit_without_a_given_old_answer_goes_back_to_what_the_model_said(store):
    before = store.ledger.round(1).edits()[1].reply_before
    made = store.update([], drop=["city"], **SHORT)
    target = made.round.edits()[0].edit.target_new
    assert before.strip().startswith(target[:3])


def test_only_an_edit_that_holds_can_be_given_back(store):
    with pytest.raises(StoreError, match="no edit 'queen'"):
        store.update([], drop=["queen"], **SETTINGS)
    assert store.head == 2


# --- Verify ---------------------------------------------------------------------------------------


def test_one_flipped_bit_in_any_file_is_found_and_named(store, tmp_path):
    store.rollback(1)  # so that the journal holds every kind of event
    files = [p for p in store.path.rglob("*") if p.is_file() and p.stat().st_size]
    assert {"store.json", "HEAD", "journal.jsonl"} <= {path.name for path in files}
    assert len(files) >= 3 + 2 * 7
    chooser = random.Random(0)
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *(chooser.randrange(len(whole)) for _ in range(6))}:
            broken = bytearray(whole)
            broken[place] ^= 1 << chooser.randrange(8)
            path.write_bytes(bytes(broken))
            name = str(path.relative_to(store.path))
            try:
                named = [problem.file for problem in Store.open(store.path).verify()]
            except CorsaError as error:  # store.json is read to open the store at all
                named = [name] if name in str(error) else []
            assert name in named, (name, place, named)
        path.write_bytes(whole)
    assert Store.open(store.path).verify() == []


@pytest.mark.parametrize("name", ["HEAD", "store.json", "journal.jsonl"])
def test_a_flipped_bit_in_any_byte_that_nothing_else_guards_is_found(store, name):
    store.rollback(1)
    path, chooser = store.path / name, random.Random(0)
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << chooser.randrange(8)
        path.write_bytes(bytes(broken))
        assert name in {problem.file for problem in store.ledger.verify()}, (place, bytes(broken))
    path.write_bytes(whole)
    assert store.ledger.verify() == []


def test_a_round_that_was_exchanged_whole_breaks_the_chain(store, tiny, tmp_path):
    other = Store.open(tmp_path / "other", tiny)
    other.update([{"id": "king", "prompt": "Who is king?", "target_new": "Eve"}], **SHORT)
    shutil.rmtree(store.path / "rounds/0001")
    shutil.copytree(other.path / "rounds/0001", store.path / "rounds/0001")
    named = {problem.file for problem in store.verify()}
    assert {"rounds/0002/round.json", "journal.jsonl"} <= named


@pytest.mark.parametrize("change", ["missing", "added"])
def test_a_missing_and_an_added_file_are_named(store, change):
    path = store.path / "rounds/0002" / ("edits.jsonl" if change == "missing" else "notes.txt")
    path.unlink() if change == "missing" else path.write_text("mine")
    assert [problem.file for problem in store.verify()] == [f"rounds/0002/{path.name}"]


def test_a_changed_base_model_is_found(tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    store = Store.open(tmp_path / "store", str(model))
    store.update(SECOND, **SHORT)
    weights = model / "model.safetensors"
    stat = weights.stat()
    broken = bytearray(weights.read_bytes())
    broken[-1] ^= 1
    weights.write_bytes(bytes(broken))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # what a bad disk would do
    assert [problem.file for problem in store.verify()] == [f"base model {model}"]
    os.utime(weights)  # a change that can be seen is refused on opening
    with pytest.raises(StoreError, match="is not the model"):
        Store.open(tmp_path / "store").ask(["Which sea?"])


# --- Nothing is lost ------------------------------------------------------------------------------


class Faults:
    """Counts every write, rename, sync and removal of an update, and strikes at one of them."""

    def __init__(self, monkeypatch, strike, at=None):
        self.count = 0
        self.written = set()
        self._strike, self._at = strike, at
        for owner, name in (
            (os, "fsync"),
            (os, "fdopen"),
            (Path, "rename"),
            (Path, "replace"),
            (Path, "write_text"),
            (Path, "mkdir"),
            (shutil, "rmtree"),
            (safetensors.torch, "save_file"),
        ):
            self._wrap(monkeypatch, owner, name)

    def _wrap(self, monkeypatch, owner, name):
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            self.count += 1
            if self.count == self._at:
                self._strike()
            if name == "replace":
                self.written.add(args[1].name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)


def update_once(path):
    """The third round of a store, a checkpoint after every step."""
    store = Store.open(path)
    return store.update([{"id": "x", "prompt": "x?", "target_new": "Six"}], **KILLED)


@pytest.fixture(scope="module")
def undisturbed(two_rounds, tmp_path_factory):
    """The third round as it comes out, and how many places it has to fail at."""
    path = tmp_path_factory.mktemp("undisturbed") / "store"
    shutil.copytree(two_rounds, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corsa.checkpoints, "_EVERY", 0.0)
        faults = Faults(patch, strike=None)
        update_once(path)
    assert {"ticket.json", "plan.json", "reference.json", "journal.jsonl", "HEAD"} <= faults.written
    return path, faults.count


def weights(path):
    return (path / "rounds/0003/adapter_model.safetensors").read_bytes()


def assert_nothing_was_lost(path, two_rounds):
    store = Store.open(path)
    assert store.ledger.verify() == []
    assert store.head in (2, 3)
    for name in ("0001", "0002"):
        for file in (two_rounds / "rounds" / name).iterdir():
            assert (path / "rounds" / name / file.name).read_bytes() == file.read_bytes()


def test_killed_at_any_write_the_store_is_whole_and_the_same_command_ends_bit_equal(
    undisturbed, two_rounds, tmp_path, monkeypatch
):
    reference, places = undisturbed
    assert places > 40
    monkeypatch.setattr(corsa.checkpoints, "_EVERY", 0.0)
    for at in range(1, places + 1):
        path = tmp_path / f"store-{at}"
        shutil.copytree(two_rounds, path)
        if (child := os.fork()) == 0:  # a process of its own, that dies without any clearing up
            with pytest.MonkeyPatch.context() as patch:
                Faults(patch, strike=lambda: os._exit(9), at=at)
                update_once(path)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9, at
        assert_nothing_was_lost(path, two_rounds)
        if Store.open(path).head == 2:
            update_once(path)
        assert weights(path) == weights(reference), at
        assert Store.open(path).head == 3
        assert Store.open(path).ledger.verify() == []
        assert not (path / "aside").exists(), at
        shutil.rmtree(path)


def test_a_disk_that_is_full_at_any_write_is_one_clear_line(
    undisturbed, two_rounds, tmp_path, monkeypatch
):
    _, places = undisturbed
    monkeypatch.setattr(corsa.checkpoints, "_EVERY", 0.0)

    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    for at in range(1, places + 1):
        path = tmp_path / f"store-{at}"
        shutil.copytree(two_rounds, path)
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, strike=full, at=at)
            with pytest.raises(StoreError) as raised:
                update_once(path)
        assert "\n" not in str(raised.value)
        assert "No space left" in str(raised.value)
        assert_nothing_was_lost(path, two_rounds)
        shutil.rmtree(path)


def test_killed_at_random_moments_the_store_is_whole(undisturbed, two_rounds, tmp_path):
    path = tmp_path / "store"
    shutil.copytree(two_rounds, path)
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps({"id": "x", "prompt": "x?", "target_new": "Six"}))
    sets = [word for key, value in KILLED.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-c", "from corsa.cli import main; main()", "update", str(facts)]
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed of the moments: {seed}")  # noqa: T201  (pytest shows it if this fails)
    chooser = random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--store", str(path), *sets],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chooser.uniform(3.0, 8.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_nothing_was_lost(path, two_rounds)
        if Store.open(path).head == 3:
            break
    if Store.open(path).head == 2:
        Store.open(path).update(facts, **KILLED)
    assert weights(path) == weights(undisturbed[0])


class SlowClock:
    """The clock of rounds, to be put forward by hand."""

    def __init__(self, patch):
        self.passed = 0.0
        patch.setattr(corsa.clock, "time", self)

    def monotonic(self):
        return time.monotonic() + self.passed


def test_finished_steps_are_not_run_again(store, monkeypatch):
    monkeypatch.setattr(corsa.checkpoints, "_EVERY", 0.0)
    steps = []

    class Progress:
        def begin(self, task, total=None): ...

        def say(self, text): ...

        def advance(self, count=1, *, total=None, note=""):
            if note.startswith("step"):
                steps.append(note.split()[1])
                if steps == ["1", "2"]:
                    clock.passed += 1000
                    raise KeyboardInterrupt

    clock = SlowClock(monkeypatch)

    facts = [{"id": "x", "prompt": "x?", "target_new": "Six"}]
    with pytest.raises(CorsaError, match="interrupted"):
        store.update(facts, progress=Progress(), **SHORT)
    assert store.head == 2
    store.update(facts, progress=Progress(), **SHORT)
    assert steps in (["1", "2", "3"], ["1", "2", "2", "3"])
    (entry,) = (e for e in store.ledger.journal() if e.get("round") == store.head)
    assert 1000 < entry["seconds"]["train"] < 1900  # before the interruption and after it


class Interrupting:
    """Ctrl-C once training begins, or after so many steps."""

    def __init__(self, steps=0):
        self._steps = steps
        self.seen = []

    def begin(self, task, total=None):
        if task == "training" and not self._steps:
            raise KeyboardInterrupt

    def say(self, text): ...

    def advance(self, count=1, *, total=None, note=""):
        if note.startswith("step"):
            self.seen.append(note.split()[1])
            if len(self.seen) == self._steps:
                raise KeyboardInterrupt


def interrupt(store, prompt, steps=0, **more):
    facts = [{"prompt": prompt, "target_new": "Six"}]
    with pytest.raises(CorsaError, match="interrupted"):
        store.update(facts, progress=Interrupting(steps), **more, **SHORT)
    assert store.ledger.pending.exists()


def test_discard_removes_what_was_interrupted_and_what_was_put_aside(store):
    interrupt(store, "w?")
    interrupt(store, "x?")
    assert (store.path / "aside/0001").is_dir()
    store.update([{"prompt": "y?", "target_new": "Ten"}], discard=True, **SHORT)
    assert not store.ledger.pending.exists()
    assert not (store.path / "aside").exists()


def test_discard_goes_on_with_the_same_round(store, monkeypatch):
    monkeypatch.setattr(corsa.checkpoints, "_EVERY", 0.0)
    interrupt(store, "w?")
    interrupt(store, "x?", steps=2)
    rest = Interrupting(steps=99)
    same = [{"prompt": "x?", "target_new": "Six"}]
    store.update(same, discard=True, progress=rest, **SHORT)
    assert rest.seen[0] in ("2", "3")
    assert rest.seen[-1] == "3"
    assert not (store.path / "aside").exists()
