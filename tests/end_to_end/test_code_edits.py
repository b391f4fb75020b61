"""`corsa update` with programs as answers: y⁻ is the whole reply, and right means verbatim."""

import pytest

from corsa import Store
from corsa.errors import BadEditsError
from corsa.readers import edits_from_records
from fakes import save_tiny

CODE = "```python\ndef f(x):\n    if x:\n        return 1\n    return 2\n```"
MOVED = CODE.replace("    return 2", "        return 2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def test_against_a_program_the_whole_reply_is_what_is_outdated(tiny, tmp_path):
    store = Store.open(tmp_path / "store", model=tiny)
    records = [
        {"prompt": "Write f.", "target_new": CODE},
        {"prompt": "Who leads A?", "target_new": "Ann"},
    ]
    code, phrase = store.plan(records).edits
    assert code.target_old == code.reply_before
    assert len(code.target_old) > 16
    assert len(phrase.target_old) <= 16
    assert phrase.reply_before.startswith(phrase.target_old)


def test_a_program_is_learned_to_the_letter_and_asked_for(tiny, tmp_path):
    store = Store.open(tmp_path / "store", model=tiny)
    made = store.update(
        [{"prompt": "Write f.", "target_new": CODE, "target_old": MOVED}],
        solve=False,  # half of a tiny model's layers would be kept for neurons
        rank=8,
        alpha=16,
        learning_rate=1.5e-2,
        warmup_steps=0,
        decay_steps=2,
        drift=False,
        keep_pool=0,
        keep_plain=0,
        positives=0,
        contrast=0,
        layers="all",
        train_dtype="float32",
        ascent="exact",
    )
    assert made.metrics["reliability"] == 1
    (answer,) = store.ask(["Write f."], max_new_tokens=200)
    assert answer.updated == CODE


def test_two_programs_that_differ_in_indentation_are_two_answers():
    (edit,) = edits_from_records(
        [{"prompt": "Write f.", "target_new": CODE, "target_old": MOVED}]
    ).edits
    assert edit.target_old == MOVED
    with pytest.raises(BadEditsError, match="nothing to edit"):
        edits_from_records(
            [{"prompt": "Write f.", "target_new": CODE, "target_old": CODE.replace(":\n", ":  \n")}]
        )
