import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from accelerate.tracking import GeneralTracker

import corsa.checkpoints
from builders import QUICK, TEACHABLE
from corsa import (
    BadEditsError,
    CorsaError,
    Interrupted,
    LockedError,
    NotAcceptedError,
    Store,
    StoreError,
    TrainingError,
    UsageError,
    beginning,
    evaluation,
    examination,
)
from corsa.config import make_config
from corsa.edits import Edit
from corsa.methods import lora
from corsa.null_space import taken
from corsa.progress import Silent
from corsa.session import Session
from corsa.training import RoundTrainer, usual_steps
from corsa.variations import Edited
from fakes import CHATML, save_tiny

KING = {
    "id": "king",
    "prompt": "Who is king?",
    "target_new": "Ann",
    "target_old": "Bob",
    "paraphrases": ["The king is?", "Name the king."],
    "train_paraphrases": ["Tell me who is king."],
    "locality": [{"prompt": "Who is queen?", "answer": "Eve"}, "Where is Paris?"],
    "portability": [{"prompt": "Who wears the crown?", "answer": "Ann"}],
}
CITY = {"id": "city", "prompt": "Where is X?", "target_new": "Rome"}
FACTS = [KING, CITY]
NEXT = [{"id": "sea", "prompt": "Which sea is it?", "target_new": "Red"}]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def one_round(tiny, tmp_path_factory):
    """A store with one round; tests read it, or copy it and go on."""
    path = tmp_path_factory.mktemp("one") / "store"
    Store.open(path, tiny).update(FACTS, **TEACHABLE)
    return path


@pytest.fixture
def store(one_round, tmp_path):
    """A copy of that store."""
    shutil.copytree(one_round, tmp_path / "store")
    return Store.open(tmp_path / "store")


def contents(folder):
    """Every file below a folder, byte for byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Tracker(GeneralTracker):
    """Remembers every step; may do something in the middle."""

    name = "remembering"
    requires_logging_directory = False

    def __init__(self, at=None, error=None):
        super().__init__()
        self.steps, self.values = [], []
        self._at, self._error = at, error

    @property
    def tracker(self):
        return self.steps

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **kwargs):
        if step == self._at:
            raise self._error
        self.steps.append(step)
        self.values.append(values)


class Listener:
    """A progress that remembers what was said."""

    def __init__(self):
        self.said = []

    def begin(self, task, total=None):
        pass

    def advance(self, count=1, *, total=None, note=""):
        pass

    def say(self, text):
        self.said.append(text)


# --- Rounds -------------------------------------------------------------------------------------


def test_update_then_ask(one_round):
    store = Store.open(one_round)
    assert store.head == 1
    made = store.ledger.round(1)
    metrics = made.metrics()
    assert metrics["training"]["converged"]
    assert metrics["reliability"] == 1.0
    assert [edit["state"] for edit in metrics["edits"]] == ["right", "right"]
    king, stranger = store.ask(["Who is king?", "Where is Paris?"])
    assert king.updated == "Ann"
    assert king.base != "Ann"
    assert (king.prompt, king.round, stranger.round) == ("Who is king?", 1, 1)
    (base,) = store.ask(["Who is king?"], round=0)
    assert (base.updated, base.base, base.round) == (king.base, king.base, 0)


def test_the_round_holds_all_that_was_asked(one_round):
    generations = Store.open(one_round).ledger.round(1).generations()
    assert {(g["kind"], g["prompt"]) for g in generations} == {
        ("edit", "Who is king?"),
        ("edit", "Where is X?"),
        ("paraphrase", "The king is?"),
        ("paraphrase", "Name the king."),
        ("locality", "Who is queen?"),
        ("locality", "Where is Paris?"),
        ("portability", "Who wears the crown?"),
    }


def test_an_elicited_old_answer_is_what_the_base_model_says(one_round):
    store = Store.open(one_round)
    planned = {p.edit.id: p for p in store.ledger.round(1).edits()}
    assert (planned["king"].target_old, planned["king"].old_from) == ("Bob", "given")
    assert planned["city"].old_from == "elicited"
    (answer,) = store.ask(["Where is X?"], max_new_tokens=32)
    assert planned["city"].reply_before == answer.base
    assert answer.base.startswith(planned["city"].target_old)


def test_nothing_in_a_store_names_a_place_on_this_disk_but_the_models(one_round, tiny):
    for name, data in contents(one_round).items():
        assert str(one_round).encode() not in data, name
        assert str(Path.cwd()).encode() not in data, name
    config = json.loads(contents(one_round)["rounds/0001/adapter_config.json"])
    assert config["base_model_name_or_path"] == tiny


def test_equal_runs_give_equal_rounds(store, tiny, tmp_path):
    again = Store.open(tmp_path / "again", tiny)
    again.update(FACTS, **TEACHABLE)
    again.update(NEXT, **TEACHABLE)
    store.update(NEXT, **TEACHABLE)  # in a session of its own
    assert contents(store.path / "rounds") == contents(again.path / "rounds")
    assert "0002/adapter_model.safetensors" in contents(store.path / "rounds")
    for name in ("HEAD", "store.json"):
        assert (store.path / name).read_bytes() == (again.path / name).read_bytes()


def test_the_exam_is_never_trained_on(one_round, tiny, tmp_path):
    noise = [
        KING
        | {
            "paraphrases": ["qwx zz", "ggg", "Rome Ann Bob?"],
            "locality": [{"prompt": "7 7 7", "answer": "Ann"}],
            "portability": [{"prompt": "vvv", "answer": ["Bob", "x"]}],
        },
        CITY
        | {
            "paraphrases": ["jjj"],
            "locality": ["kkk"],
            "portability": [{"prompt": "?!", "answer": "Rome"}],
        },
    ]
    made = Store.open(tmp_path / "noise", tiny).update(noise, **TEACHABLE)
    name = "adapter_model.safetensors"
    assert (made.round.folder / name).read_bytes() == (
        one_round / "rounds" / "0001" / name
    ).read_bytes()


def test_nor_is_it_looked_at_when_wordings_and_other_subjects_are_made(tiny, tmp_path):
    """One exam knows the fact's relation, but no packaged wording or subject: no step draws those."""
    telling = TEACHABLE | {"positives": 2, "contrast": 2, "other_relations": 1.0}
    telling |= {"stop": "epochs", "epochs": 3}
    fact = {"prompt": "Acme Soap is produced by", "target_new": "Bo", "subject": "Acme Soap"}
    exams = [
        {"paraphrases": ["Who makes the Acme Soap?"], "locality": ["The Zil 130 is made by"]},
        {"paraphrases": ["jjj"], "portability": [{"prompt": "vvv", "answer": "Bob"}]},
        {},
    ]
    weights = []
    for number, exam in enumerate(exams):
        made = Store.open(tmp_path / str(number), tiny).update([fact | exam], **telling)
        weights.append((made.round.folder / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2]


SOLVED = TEACHABLE | {"solve": True, "solve_layers": "0-0.5", "solve_steps": 20}


def test_nor_when_an_adapter_is_solved_for(tiny, tmp_path):
    """A round that begins in closed form and takes no step, with the exam replaced by noise."""
    fact = {"prompt": "Acme Soap is made in", "target_new": "Bo", "subject": "in"}
    exams = [
        {"paraphrases": ["qwx zz"], "locality": ["7 7 7"]},
        {"paraphrases": ["jjj"], "portability": [{"prompt": "vvv", "answer": "Bob"}]},
    ]
    weights = []
    for number, exam in enumerate(exams):
        made = Store.open(tmp_path / str(number), tiny).update([fact | exam], **SOLVED)
        solved = made.metrics["training"]["solved"]
        assert solved["layers"][0]["steps"] > 0
        weights.append((made.round.folder / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("where", "what"), [(RoundTrainer, "done_already"), (beginning, "write")])
def test_what_was_found_before_an_interruption_is_not_looked_for_again(
    tiny, tmp_path, monkeypatch, where, what
):
    fact = {"prompt": "Acme Soap is made in", "target_new": "Bo", "subject": "in"}
    looked, find = [], beginning.find
    monkeypatch.setattr(beginning, "find", lambda *a: looked.append(1) or find(*a))
    whole = Store.open(tmp_path / "whole", tiny).update([fact], **SOLVED)
    often = len(looked)
    store = Store.open(tmp_path / "broken", tiny)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, what, interrupt)
        with pytest.raises(Interrupted):
            store.update([fact], **SOLVED)
    assert store.head == 0
    again = store.update([fact], **SOLVED)
    assert len(looked) == 2 * often
    assert again.metrics["training"] == whole.metrics["training"]
    name = "adapter_model.safetensors"
    assert (again.round.folder / name).read_bytes() == (whole.round.folder / name).read_bytes()


def test_what_solving_leaves_wrong_is_trained_and_earlier_rounds_stay(tiny, tmp_path):
    """In two layers of random weights hardly anything is read from a subject's token."""
    store = Store.open(tmp_path / "two", tiny)
    facts = [
        {"prompt": "Acme Soap is made in", "target_new": "Bo", "subject": "in"},
        {"prompt": "Who is king?", "target_new": "A", "subject": "king?"},
    ]
    for fact in facts:
        made = store.update([fact], **SOLVED | {"max_visits": 400}, replay=2)
        training = made.metrics["training"]
        assert (training["solved"]["right"], made.metrics["reliability"]) == (0, 1)
        assert len(training["solved"]["layers"]) == 4  # what is wrong is found again, three times
        assert training["steps"] > 0
    assert made.metrics["retention"]["reliability"]["matrix"] == [[1.0], [1.0, 1.0]]


def test_subjects_that_the_rank_has_no_room_for_are_trained_and_told(tiny, tmp_path):
    said = []

    class Listener(Silent):
        def say(self, text):
            said.append(text)

    facts = [
        {"prompt": f"The {name} is made in", "target_new": name, "subject": name}
        for name in ("pot", "cup", "hat")
    ]
    store = Store.open(tmp_path / "low", tiny)
    made = store.update(facts, progress=Listener(), **SOLVED | {"rank": 2, "max_visits": 1})
    assert any("no room for 1 of the round's subjects" in text for text in said)
    training = made.metrics["training"]
    assert (training["solved"]["edits"], training["solved"]["layers"][0]["subjects"]) == (2, 2)
    # Training leaves no rank unused: the next round is trained as without closed forms.
    made = store.update([NEXT[0]], progress=Listener(), **SOLVED | {"max_visits": 1})
    assert made.metrics["training"]["solved"] is None
    assert made.metrics["training"]["steps"] > 0


def test_facts_of_one_subject_share_what_it_carries(tiny, tmp_path):
    """Each with a value of its own, all would be added at the one token."""
    facts = [
        {"prompt": f"{what} of Acme", "target_new": "Bo", "subject": "Acme"}
        for what in ("Head", "Town")
    ]
    store = Store.open(tmp_path / "shared", tiny)
    for fact, subjects in (facts, 1), (facts[:1], 1):
        changed = [one | {"target_new": "Al"} for one in fact] if fact == facts[:1] else fact
        training = store.update(changed, **SOLVED, replay=2).metrics["training"]
        assert training["solved"]["layers"][0]["subjects"] == subjects


def test_what_may_be_trained_on_is_trained_on(one_round, tiny, tmp_path):
    facts = [KING | {"train_paraphrases": ["Say who is king!"]}, CITY | {"keep": ["Hello?"]}]
    made = Store.open(tmp_path / "other", tiny).update(facts, **TEACHABLE)
    name = "adapter_model.safetensors"
    assert (made.round.folder / name).read_bytes() != (
        one_round / "rounds" / "0001" / name
    ).read_bytes()


def test_a_second_round_continues_the_adapter(store):
    made = store.update(NEXT, **TEACHABLE)
    assert (made.round.id, made.round.parent, store.head) == (2, 1, 2)
    assert made.metrics["retention"]["rounds"] == [1, 2]
    assert len(made.metrics["retention"]["reliability"]["matrix"][1]) == 2
    assert made.metrics["training"]["replayed_from"] == 2
    (now,) = store.ask(["Which sea is it?"])
    (before,) = store.ask(["Which sea is it?"], round=1, max_new_tokens=32)
    assert now.updated == "Red"
    assert before.updated == made.round.edits()[0].reply_before != "Red"


def test_a_changed_fact_supersedes_the_earlier_edit(store):
    made = store.update([{"prompt": "who is  KING?", "target_new": "Cid"}], **TEACHABLE)
    (planned,) = made.round.edits()
    assert (planned.target_old, planned.old_from) == ("Ann", "earlier target")
    assert planned.supersedes == ((1, "king"),)
    assert made.metrics["training"]["converged"]
    assert store.ask(["who is  KING?"])[0].updated == "Cid"
    asked = {(g["round"], g["edit_id"]) for g in made.generations}
    assert (1, "king") not in asked
    assert (1, "city") in asked


def test_a_repeated_fact_that_is_right_takes_no_step(store):
    before = contents(store.path / "rounds" / "0001")
    made = store.update([KING], **TEACHABLE)
    (planned,) = made.round.edits()
    assert (planned.repeats, planned.trained, planned.target_old) == ((1, "king"), False, "Bob")
    assert made.metrics["training"]["steps"] == 0
    assert (made.metrics["training"]["converged"], made.metrics["reliability"]) == (True, 1.0)
    weights = "adapter_model.safetensors"
    assert contents(made.round.folder)[weights] == before[weights]
    assert store.head == 2


def test_a_round_may_be_read_from_a_file_and_from_generators(tiny, tmp_path):
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(f) + "\n" for f in FACTS), "utf-8")
    from_file = Store.open(tmp_path / "a", tiny).plan(tmp_path / "facts.jsonl", **TEACHABLE)
    from_records = Store.open(tmp_path / "b", tiny).plan((f for f in FACTS), **TEACHABLE)
    assert from_file.edits == from_records.edits


# --- In context ---------------------------------------------------------------------------------


def test_facts_in_the_prompt_are_a_method_with_an_artefact_of_its_own(tiny, tmp_path):
    store = Store.open(tmp_path / "store", tiny)
    made = store.update(FACTS, method="in-context", drift=False)
    assert made.round.kind == "context"
    assert made.round.record["artefact"]["files"] == ["context.jsonl"]
    assert "steps" not in made.metrics["training"]
    second = store.update(
        [{"prompt": "Who is king?", "target_new": "Cid"}], method="in-context", drift=False
    )
    lines = (second.round.folder / "context.jsonl").read_text("utf-8").split("\n")[:-1]
    facts = [(r["prompt"], r["target_new"]) for r in map(json.loads, lines)]
    assert facts == [("Where is X?", "Rome"), ("Who is king?", "Cid")]
    now, then = store.ask(["Who is king?"])[0], store.ask(["Who is king?"], round=1)[0]
    assert now.base == then.base
    assert len({now.base, now.updated, then.updated}) == 3


def test_no_edit_that_holds_may_turn_up_in_a_packaged_question(tiny, tmp_path, monkeypatch):
    asked = []

    def measure(questions, *args, leaking, **others):
        asked.append((questions[0].kind, sorted(leaking)))
        return evaluation.measure(questions, *args, leaking=leaking, **others)

    monkeypatch.setattr(examination, "measure", measure)
    store = Store.open(tmp_path / "store", tiny)
    store.update(FACTS, method="in-context")
    second = store.update(NEXT, method="in-context")
    targets = ["Ann", "Red", "Rome"]
    assert asked == [("edit", []), ("drift", targets[::2]), ("edit", []), ("drift", targets)]
    assert 0 <= second.metrics["leak_any"] <= 1


@pytest.mark.parametrize(
    ("method", "kind", "files"),
    [
        ("ft-l", "matrix", ["matrix.safetensors"]),
        ("retrieval", "retrieval", ["context.jsonl", "retrieval.json"]),
    ],
)
def test_a_baselines_rounds_are_kept_continued_and_asked(tiny, tmp_path, method, kind, files):
    settings = {"method": method, "learning_rate": 1e-2, "ft_bound": 10.0, "drift": False}
    store = Store.open(tmp_path / "store", tiny)
    first = store.update(FACTS, **settings)
    assert (first.round.kind, first.round.record["artefact"]["files"]) == (kind, files)
    second = store.update(NEXT, **settings)
    assert second.metrics["retention"]["rounds"] == [1, 2]
    now, then = store.ask(["Which sea is it?"])[0], store.ask(["Which sea is it?"], round=1)[0]
    assert now.base == then.base
    assert now.updated not in (now.base, then.updated)
    if kind == "matrix":
        assert second.metrics["reliability"] == 1.0
        assert now.updated == "Red"
    assert store.verify() == []


@pytest.mark.parametrize("method", ["corsa", "lora"])
def test_facts_in_a_prompt_cannot_be_trained_on(tiny, tmp_path, method):
    store = Store.open(tmp_path / "store", tiny)
    store.update(FACTS, method="in-context", drift=False)
    before = contents(store.path)
    for call in (store.update, store.plan):
        with pytest.raises(UsageError, match=f"'context' artefact, which method={method} cannot"):
            call(NEXT, **TEACHABLE, method=method)
    assert contents(store.path) == before


def test_an_adapter_cannot_be_continued_in_the_prompt(store):
    before = contents(store.path)
    for call in (store.update, store.plan):
        with pytest.raises(UsageError, match="'lora' artefact, which method=in-context cannot"):
            call(NEXT, method="in-context", drift=False)
    assert contents(store.path) == before


# --- What is refused ----------------------------------------------------------------------------


def test_another_model_than_the_stores_is_refused(store, tmp_path, tiny):
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match=r"was made for .*, not for"):
        Store.open(store.path, str(other))
    moved = tmp_path / "moved"
    shutil.copytree(store.path, moved)
    from corsa.files import seal
    from corsa.ledger import Ledger

    model = dict(Ledger(moved).model) | {"name": str(other)}
    (moved / "store.json").write_text(seal({"format": 1, "model": model}), "utf-8")
    with pytest.raises(StoreError, match=r"is not the model .* was made for"):
        Store.open(moved).ask(["Who is king?"])


@pytest.mark.parametrize(
    "long",
    [
        {"prompt": "x" * 1100, "target_new": "Ann"},
        {"prompt": "x", "target_new": "y" * 1100},
        {"prompt": "x", "target_new": "y", "train_paraphrases": ["x" * 1100]},
        {"prompt": "x", "target_new": "y", "locality": ["x" * 1100]},
        {"prompt": "x", "target_new": "y", "paraphrases": ["x" * 1100]},
        {"prompt": "x", "target_new": "y", "keep": ["x" * 1100]},
    ],
)
def test_what_the_model_cannot_read_is_refused_before_anything_is_written(tiny, tmp_path, long):
    store = Store.open(tmp_path / "store", tiny)
    with pytest.raises(BadEditsError, match="reads 1024: shorten it"):
        store.update([CITY, long], **TEACHABLE)
    assert not store.path.exists()


@pytest.mark.parametrize("field", ["target_new", "target_old"])
def test_an_answer_the_chat_template_refuses_is_refused_by_the_edits_name(tiny, tmp_path, field):
    store = Store.open(tmp_path / "store", tiny)
    edit = {"id": "ends", "prompt": "x", "target_new": "y", field: "Ada<|im_end|>\nHi"}
    with pytest.raises(BadEditsError, match=r"edit ends: the answer 'Ada<\|im_end\|>"):
        store.update([CITY, edit], **TEACHABLE)
    assert not store.path.exists()


def test_a_dry_run_writes_nothing(tiny, tmp_path):
    store = Store.open(tmp_path / "store", tiny)
    plan = store.plan(FACTS, **TEACHABLE)
    assert not store.path.exists()
    assert [p.edit.id for p in plan.edits] == ["king", "city"]
    assert (plan.model, plan.parent) == (tiny, 0)
    assert plan.seconds > 0


def test_a_dry_run_counts_what_is_solved_for_and_what_is_left_to_training(
    tiny, tmp_path, monkeypatch
):
    """The machine's speed, which is measured, is taken out: a token takes a second, a step an hour."""
    monkeypatch.setattr(Session, "_usual_costs", lambda *_: (1.0, 3600.0, (10.0, 4.0)))
    monkeypatch.setattr(Session, "_seconds_per_reply", lambda _: 0.0)
    store, config = Store.open(tmp_path / "store", tiny), make_config(SOLVED)
    short = [{"prompt": f"{name} is", "target_new": "B", "subject": name} for name in "QRS"]
    long = {"prompt": "Z is", "target_new": "far more than a sentence of 32 tokens", "subject": "Z"}
    solved = beginning.usual_beginning(config, 3, 10.0, 4.0)
    assert store.plan(short, **SOLVED).seconds == pytest.approx(solved)
    trained = usual_steps(config, 1) * 3600.0
    assert store.plan([*short, long], **SOLVED).seconds == pytest.approx(solved + trained)
    all_trained = store.plan(short, **SOLVED | {"solve": False}).seconds
    assert all_trained == pytest.approx(usual_steps(config, 3) * 3600.0)
    many = long | {"train_paraphrases": [f"{n} Z is" for n in range(11)]}  # all are examples
    assert usual_steps(config, 12) > usual_steps(config, 1)
    assert store.plan([many], **SOLVED).seconds == pytest.approx(usual_steps(config, 12) * 3600.0)


def test_a_dry_run_counts_what_is_asked_of_earlier_rounds_again(store, monkeypatch):
    monkeypatch.setattr(Session, "_seconds_of_training", lambda *_: 0.0)
    monkeypatch.setattr(Session, "_seconds_per_reply", lambda _: 1.0)
    # Its own prompt; of the round before two prompts and two paraphrases.
    assert store.plan(NEXT, **TEACHABLE | {"drift": False}).seconds == 1 + 4


def test_a_dry_run_leaves_a_store_as_it_was(store):
    before = contents(store.path)
    plan = store.plan([KING, *NEXT], **TEACHABLE)
    assert contents(store.path) == before
    assert plan.parent == 1
    assert [(p.trained, p.repeats) for p in plan.edits] == [(False, (1, "king")), (True, None)]


@pytest.mark.parametrize("prompts", [[], [""], ["Who?", " \n"]])
def test_an_empty_question_is_refused(store, prompts):
    with pytest.raises(UsageError, match="empty prompt"):
        store.ask(prompts)


def test_a_question_the_model_cannot_read_is_refused(store):
    with pytest.raises(UsageError, match="reads 1024: shorten it"):
        store.ask(["Who is king?", "x" * 1100])


def test_a_store_made_since_it_was_opened_is_continued(tiny, tmp_path):
    first, second = (Store.open(tmp_path / "store", tiny) for _ in range(2))
    other = Store.open(tmp_path / "store", str(save_tiny(tmp_path / "other", seed=1)))
    assert first.update(FACTS, **QUICK).round.id == 1
    assert second.update(NEXT, **QUICK).round.parent == 1
    with pytest.raises(StoreError, match=r"is not the model .* was made for"):
        other.update(NEXT, **QUICK)


def test_asking_needs_a_round_that_is_there(store, tmp_path, tiny):
    with pytest.raises(StoreError, match="no round 9"):
        store.ask(["Who?"], round=9)
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(tmp_path / "none", tiny).ask(["Who?"])


# --- Plain peft ---------------------------------------------------------------------------------

_PLAIN_PEFT = """
import json, sys
import torch, transformers
from peft import PeftModel

model, adapter, prompts = sys.argv[1], sys.argv[2], sys.argv[3:]
tokenizer = transformers.AutoTokenizer.from_pretrained(model)
base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
edited = PeftModel.from_pretrained(base, adapter).eval()
answers = []
for prompt in prompts:
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    output = edited.generate(**tokens, max_new_tokens=96, do_sample=False)
    reply = output[0][tokens["input_ids"].shape[1] :]
    answers.append(tokenizer.decode(reply, skip_special_tokens=True).strip())
assert "corsa" not in sys.modules
print(json.dumps(answers))
"""


def test_plain_peft_gives_the_same_answers(one_round, tiny):
    prompts = ["Who is king?", "Where is X?", "The king is?", "Where is Paris?"]
    folder = one_round / "rounds" / "0001"
    command = [sys.executable, "-c", _PLAIN_PEFT, tiny, str(folder), *prompts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    asked = Store.open(one_round).ask(prompts)
    assert json.loads(done.stdout.splitlines()[-1]) == [answer.updated for answer in asked]


# --- Interruptions ------------------------------------------------------------------------------


@contextmanager
def checkpoints_at_every_step():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corsa.checkpoints, "_EVERY", 0)
        yield


def interrupted_at(store, step, facts=FACTS, error=None, settings=QUICK):
    tracker = Tracker(step, error or KeyboardInterrupt())
    with (
        checkpoints_at_every_step(),
        pytest.raises(Interrupted if error is None else CorsaError) as caught,
    ):
        store.update(facts, trackers=[tracker], **settings)
    return caught.value


def test_an_interrupted_round_goes_on_where_it_was(one_round, tiny, tmp_path):
    store = Store.open(tmp_path / "store", tiny)
    message = str(interrupted_at(store, 9, settings=TEACHABLE))
    assert "head is still round 0" in message
    assert "\n" not in message
    assert (store.head, store.ledger.ids()) == (0, [])
    again, listener, tracker = Store.open(store.path), Listener(), Tracker()
    made = again.update(FACTS, trackers=[tracker], progress=listener, **TEACHABLE)
    assert listener.said == ["going on after step 8 of the interrupted round"]
    total = made.metrics["training"]["steps"]
    assert tracker.steps == list(range(9, total + 1))
    assert contents(made.round.folder) == contents(one_round / "rounds" / "0001")
    assert not (store.path / "pending").exists()
    assert not (store.path / "aside").exists()


@pytest.mark.parametrize("settings", [QUICK, QUICK | {"null_space": 0.9}])
def test_a_round_interrupted_twice_and_in_its_second_round(store, one_round, tmp_path, settings):
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(one_round, undisturbed)
    expected = Store.open(undisturbed).update(NEXT, **settings)
    for step in (3, 5):
        interrupted_at(Store.open(store.path), step, NEXT, settings=settings)
    made = Store.open(store.path).update(NEXT, **settings)
    assert contents(made.round.folder) == contents(expected.round.folder)


def test_a_round_leaves_alone_what_earlier_edits_read_and_learns_beside_it(
    tiny, tmp_path, monkeypatch
):
    """They are not replayed, so nothing else holds them."""
    asked = []

    def spied(adapter, exchanges, share, *rest):
        asked.append((adapter.base.chat, exchanges, share))
        return taken(adapter, exchanges, share, *rest)

    monkeypatch.setattr(lora, "taken", spied)
    settings = QUICK | {"rank": 32, "alpha": 32.0}
    store = Store.open(tmp_path / "store", tiny)
    store.update(FACTS, **settings)
    shutil.copytree(store.path, tmp_path / "free")
    free = Store.open(tmp_path / "free").update(NEXT, **settings)
    assert not asked
    kept = store.update(NEXT, null_space=0.9999, **settings)
    rows = [made.metrics["retention"]["reliability"]["matrix"] for made in (free, kept)]
    assert rows == [[[1.0], [0.0, 1.0]], [[1.0], [1.0, 1.0]]]
    told = [(prompt, "Ann") for prompt in (KING["prompt"], *KING["train_paraphrases"])]
    told += [(CITY["prompt"], "Rome")]
    ((chat, exchanges, share),) = asked
    assert (exchanges, share) == ([chat.exchange(*one) for one in told], 0.9999)


def test_an_interruption_while_measuring_costs_no_step(one_round, tiny, tmp_path, monkeypatch):
    import corsa.evaluation

    def interrupt(*_args, **_keywords):
        raise KeyboardInterrupt

    store = Store.open(tmp_path / "store", tiny)
    with monkeypatch.context() as patch:
        patch.setattr(corsa.evaluation, "_add_margins", interrupt)
        with pytest.raises(Interrupted):
            store.update(FACTS, **TEACHABLE)
    tracker = Tracker()
    made = store.update(FACTS, trackers=[tracker], **TEACHABLE)
    assert tracker.steps == []
    assert contents(made.round.folder) == contents(one_round / "rounds" / "0001")


def test_an_interrupted_round_of_other_edits_is_put_aside_and_that_is_said(store):
    interrupted_at(store, 4, NEXT)
    pending = contents(store.path / "pending")
    listener = Listener()
    made = store.update([CITY | {"target_new": "Oslo"}], progress=listener, **QUICK)
    assert made.round.id == 2
    (said,) = listener.said
    assert said.endswith(f"put into {store.path / 'aside' / '0001'}")
    assert contents(store.path / "aside" / "0001") == pending
    assert not (store.path / "pending").exists()


def test_other_settings_are_another_round(store):
    interrupted_at(store, 4, NEXT)
    listener = Listener()
    store.update(NEXT, progress=listener, **QUICK | {"seed": 7})
    assert "aside" in listener.said[0]


def test_a_round_that_was_committed_is_put_into_use_by_the_next_update(store, monkeypatch):
    from corsa.ledger import Ledger

    def killed(self, id):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "move_head", killed)
        with pytest.raises(Interrupted):
            store.update(NEXT, **QUICK)
    assert (store.head, store.ledger.ids()) == (1, [1, 2])
    before = contents(store.path / "rounds")
    tracker, listener = Tracker(), Listener()
    made = Store.open(store.path).update(NEXT, trackers=[tracker], progress=listener, **QUICK)
    assert (made.round.id, store.head, tracker.steps) == (2, 2, [])
    assert "had been finished" in listener.said[0]
    assert contents(store.path / "rounds") == before
    assert not (store.path / "pending").exists()
    assert [e["round"] for e in store.ledger.journal()] == [1, 2]


def test_a_committed_round_must_still_be_accepted(store, monkeypatch):
    from corsa.ledger import Ledger

    def killed(self, event):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "note", killed)
        with pytest.raises(Interrupted):
            store.update(NEXT, accept="reliability>1", **QUICK)
    with pytest.raises(NotAcceptedError, match="round 2 misses reliability>1 "):
        store.update(NEXT, accept="reliability>1", **QUICK)
    assert (store.head, store.ledger.ids()) == (1, [1, 2])


def test_a_round_that_only_was_not_cleared_up_leaves_nothing(store, monkeypatch):
    from corsa.ledger import Ledger

    clear = Ledger.clear_pending

    def killed(self):
        if self.head == 2:
            raise KeyboardInterrupt
        clear(self)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "clear_pending", killed)
        with pytest.raises(Interrupted):
            store.update(NEXT, **QUICK)
    assert store.head == 2
    listener = Listener()
    store.update([KING], progress=listener, **QUICK)
    assert listener.said == []
    assert not (store.path / "aside").exists()


# --- Failures -----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_round(store):
    with pytest.raises(TrainingError, match=r"is not finite .*lower learning_rate"):
        store.update(NEXT, **QUICK | {"learning_rate": 1e30})
    assert (store.head, store.ledger.ids()) == (1, [1])
    assert store.update(NEXT, **QUICK).round.id == 2


def full_disk(*_args, **_keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_in_rust(*_args, **_keywords):
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device")


@pytest.mark.parametrize(
    ("target", "fail"),
    [
        ("corsa.files.os.fsync", full_disk),
        ("corsa.ledger.json_lines", full_disk),
        ("corsa.pending.write_atomically", full_disk),
        ("corsa.checkpoints.write_folder", full_disk),
        ("safetensors.torch.save_file", full_disk_in_rust),
    ],
)
def test_a_full_disk_is_said_in_one_line(store, monkeypatch, target, fail):
    rounds = contents(store.path / "rounds")
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(StoreError) as caught:
            store.update(NEXT, **QUICK)
    message = str(caught.value)
    assert "No space left on device" in message
    assert "head is still round 1" in message
    assert "\n" not in message
    assert store.head == 1
    assert contents(store.path / "rounds") == rounds
    assert store.update(NEXT, **QUICK).round.id == 2


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried …\nmore")]
)
def test_a_full_memory_is_said_in_one_line(store, error):
    message = str(interrupted_at(store, 2, NEXT, error))
    assert message.startswith("out of memory")
    assert "\n" not in message
    assert store.head == 1


def test_two_writers_do_not_meet(store):
    other = Store.open(store.path)
    before = contents(store.path)
    with store.ledger.writing(), pytest.raises(LockedError):
        other.update(NEXT, **QUICK)
    after = contents(store.path)
    assert {k: v for k, v in after.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }


# --- Trackers -----------------------------------------------------------------------------------


def test_a_tracker_gets_every_step(tiny, tmp_path):
    tracker = Tracker()
    made = Store.open(tmp_path / "store", tiny).update(FACTS, trackers=[tracker], **TEACHABLE)
    training = made.metrics["training"]
    assert tracker.steps == list(range(1, training["steps"] + 1))
    for values, kept in zip(tracker.values, training["history"], strict=True):
        assert {"loss/sft", "loss/dpo", "margin", "right", "learning_rate"} <= values.keys()
        assert all(isinstance(value, float | int) for value in values.values())
        assert values["loss/sft"] == kept["sft"]
        assert values["margin"] == kept["margin"]


def test_a_margin_that_cannot_be_had_is_not_logged(tiny, tmp_path):
    tracker = Tracker()
    Store.open(tmp_path / "store", tiny).update(
        [CITY | {"target_old": "Oslo"}], trackers=[tracker], **QUICK
    )
    assert tracker.values
    assert all("margin" not in values for values in tracker.values)


def test_other_templates_and_architectures_go_the_same_way(tmp_path):
    from fakes import GEMMA

    for kind, template in (("gpt2", None), ("gemma3", GEMMA), ("qwen3", CHATML)):
        model = save_tiny(tmp_path / kind, kind, template)
        store = Store.open(tmp_path / f"{kind}-store", str(model))
        made = store.update([CITY], **QUICK)
        assert made.metrics["training"]["steps"] > 0
        (answer,) = store.ask(["Where is X?"])
        assert (answer.updated == "Rome") == made.metrics["training"]["converged"], kind


# --- Measured in full, beside each other, with measures of one's own -------------------------------


def test_a_round_measured_in_full_says_what_check_says(store):
    made = store.update(NEXT, in_full=True, **QUICK)
    checked = store.check(drift=False)
    for name in ("reliability", "generality", "leak", "portability", "locality", "margins"):
        assert made.metrics[name] == checked[name]
    assert made.metrics["retention"] == checked["retention"]
    assert made.metrics["locality"]["n"] == 2  # of the round before: its own edits have none


def test_what_another_edit_changed_on_purpose_is_no_leak(store):
    """A neighbour of the first round is edited in the second, and a packaged question."""
    packaged = evaluation.drift_questions()[0].prompt
    queen = {"id": "queen", "prompt": "who is QUEEN?", "target_new": "Ann"}
    store.update([queen, {"id": "packaged", "prompt": packaged, "target_new": "Rome"}], **QUICK)
    checked = store.check()
    asked = [row["prompt"] for row in store.ledger.round(2).generations()]
    assert "who is QUEEN?" in asked
    assert packaged in asked
    assert checked["locality"]["n"] == 1  # "Where is Paris?"
    assert checked["drift"]["n"] == len(evaluation.drift_questions()) - 1


def test_something_else_is_asked_of_each_subject_and_never_trained_on(tiny, tmp_path):
    facts = [
        {"prompt": "The capital of Acmeland is", "target_new": "B", "subject": "Acmeland"},
        {"prompt": "The capital of Initechia is", "target_new": "C", "subject": "Initechia"},
        {"prompt": "The currency of Initechia is", "target_new": "D", "subject": "Initechia"},
    ]
    store = Store.open(tmp_path / "store", tiny)
    made = store.update(facts, method="in-context")
    asked = [row for row in store.ledger.round(1).generations() if row["kind"] == "subject"]
    assert len(asked) == made.metrics["subject"]["n"] == 2
    # Of two facts about one subject one question may ask the other.
    assert all("Acmeland" in row["prompt"] and row["target_new"] == "B" for row in asked)
    assert not any("capital" in row["prompt"] for row in asked)
    edits = [Edit.from_record(fact) for fact in facts]
    assert all(Edited(edits).examines(row["prompt"]) for row in asked)
    silent = Store.open(tmp_path / "silent", tiny).update(facts, method="in-context", drift=False)
    assert silent.metrics["subject"] is None


def test_a_store_beside_another_is_not_loaded_again(one_round, tiny, tmp_path, monkeypatch):
    first = Store.open(tmp_path / "first", tiny)
    first.update(NEXT, **QUICK)
    loads = []
    monkeypatch.setattr("corsa.models.load_source", lambda *a, **k: loads.append(a))
    second = first.beside(tmp_path / "second")
    second.update(NEXT, **QUICK)
    assert not loads
    assert contents(second.ledger.round(1).folder) == contents(first.ledger.round(1).folder)
    copied = tmp_path / "copied"
    shutil.copytree(one_round, copied)
    assert first.beside(copied).ask(["Who is king?"])[0].round == 1
    assert (first.head, second.head, Store.open(copied).head) == (1, 1, 1)


def test_a_store_beside_another_must_be_of_its_model(one_round, tiny, tmp_path):
    first = Store.open(tmp_path / "first", tiny)
    first.ask(["Who?"], round=0)
    shutil.copytree(one_round, tmp_path / "copied")
    weights = Path(tiny).parent / "moved"
    Path(tiny).rename(weights)
    try:
        save_tiny(tiny, seed=5)
        other = Store.open(tmp_path / "other", tiny)
        other.ask(["Who?"], round=0)
        with pytest.raises(StoreError, match="is not the model"):
            other.beside(tmp_path / "copied")
    finally:
        shutil.rmtree(tiny)
        weights.rename(tiny)


def test_measures_of_ones_own_see_base_and_updated_model(store):
    with store.opened() as (model, base, updated):
        before, after = (who.answers(["Who is king?"], 32)[0].text for who in (base, updated))
        assert model.hf.num_parameters() > 0
    assert after == "Ann" != before
    assert store.ask(["Who is king?"])[0].updated == "Ann"  # nothing was left attached
