"""Giving one edit back: to the answer from before, however often it was stated since."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from corsa.edits import Edit, Probe
from corsa.errors import StoreError, UsageError
from corsa.giving_back import give_back
from corsa.planning import plan_edit


def ledger(*rounds):
    """A ledger of rounds, each an edit and what the model answered before it."""
    history = []
    for number, (edit, reply) in enumerate(rounds, 1):
        history.append(plan_edit(number, edit, history, reply, reply))
    rounds = [SimpleNamespace(edits=lambda p=planned: [p]) for planned in history]
    return SimpleNamespace(head=len(rounds), lineage=lambda head: rounds)


KING = Edit("Who is king?", "Ann", id="king")


def test_the_answer_is_the_first_sentence_of_what_the_model_said():
    edit = give_back(ledger((KING, "Bob. He is old.")), "king")
    assert (edit.prompt, edit.target_new, edit.target_old) == (KING.prompt, "Bob.", "Ann")
    assert edit.metadata["gives_back"] == [1, "king"]


def test_a_fact_that_was_stated_three_times_goes_back_to_before_the_first():
    rounds = [(replace(KING, id=f"king{i}"), "Ann" if i else "Bob.") for i in range(3)]
    assert give_back(ledger(*rounds), "king2").target_new == "Bob."


def test_a_program_goes_back_whole():
    before = "```python\nold()\nmore()\n```"
    edit = Edit("Write it.", "```python\nnew()\n```", id="code")
    assert give_back(ledger((edit, before)), "code").target_new == before
    short = Edit("Write it.", "new()", id="code", verbatim=True)
    assert give_back(ledger((short, "old()\nmore()")), "code").target_new == "old()\nmore()"


def test_what_followed_from_the_fact_follows_no_more():
    edit = replace(KING, portability=(Probe("Who is the king's wife?", ("Eve",)),))
    assert give_back(ledger((edit, "Bob.")), "king").portability == ()


def test_what_was_given_back_is_not_given_back_again():
    first = ledger((KING, "Bob."))
    back = give_back(first, "king")
    with pytest.raises(UsageError, match="given back in round 2; to teach it again, put it into"):
        give_back(ledger((KING, "Bob."), (back, "Ann")), "king")


def test_an_edit_that_does_not_hold_cannot_be_given_back():
    with pytest.raises(StoreError, match="there are king"):
        give_back(ledger((KING, "Bob.")), "queen")
    with pytest.raises(UsageError, match="changed nothing"):
        give_back(ledger((KING, "Ann")), "king")
