import dataclasses
import re

import pytest

from corsa.edits import FIELDS, Edit, Probe, default_id
from corsa.errors import UsageError


def test_default_id_depends_on_prompt_and_target_alone():
    assert Edit("Who leads X?", "Ann").id == Edit("who  leads x?", "Ann", subject="X").id
    assert Edit("Who leads X?", "Ann").id != Edit("Who leads X?", "Ben").id
    assert re.fullmatch(r"e[0-9a-f]{10}", default_id("Who leads X?", "Ann"))


def test_given_id_is_kept():
    assert Edit("p", "t", id="mine").id == "mine"


def test_edit_is_frozen_and_can_be_a_member_of_a_set():
    edit = Edit("p", "t", metadata={"relation": "head"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        edit.prompt = "q"
    assert len({edit, Edit("p", "t", metadata={"relation": "head"})}) == 1


def test_metadata_takes_part_in_equality():
    assert Edit("p", "t", metadata={"a": 1}) != Edit("p", "t", metadata={"a": 2})


@pytest.mark.parametrize("name", FIELDS)
def test_metadata_cannot_shadow_a_field(name):
    with pytest.raises(UsageError, match=name):
        Edit("p", "t", metadata={name: "other"})


@pytest.mark.parametrize(
    ("fields", "has_fact"),
    [
        ({}, False),
        ({"subject": "X"}, False),
        ({"metadata": {"relation": "head"}}, False),
        ({"subject": "X", "metadata": {"relation": ""}}, False),
        ({"subject": "X", "metadata": {"relation": 7}}, False),
        ({"subject": "X", "metadata": {"relation": "head"}}, True),
    ],
)
def test_keys_name_the_prompt_and_the_fact_where_it_is_known(fields, has_fact):
    keys = Edit("Who  leads X?", "Ann", **fields).keys
    assert keys[0] == ("prompt", "who leads x?")
    assert keys[1:] == ((("fact", "x", "head"),) if has_fact else ())


def test_record_leaves_out_what_is_absent():
    assert Edit("p", "t", id="a").to_record() == {"id": "a", "prompt": "p", "target_new": "t"}


def test_record_holds_every_field():
    edit = Edit(
        "p",
        "t",
        id="a",
        target_old="o",
        subject="s",
        paraphrases=("p1",),
        train_paraphrases=("p2",),
        keep=("k",),
        locality=(Probe("l1"), Probe("l2", ("x",))),
        portability=(Probe("q", ("x", "y")),),
        verbatim=False,
        metadata={"relation": "head", "source": {"page": [1, 2]}},
    )
    assert edit.to_record() == {
        "id": "a",
        "prompt": "p",
        "target_new": "t",
        "target_old": "o",
        "subject": "s",
        "paraphrases": ["p1"],
        "train_paraphrases": ["p2"],
        "keep": ["k"],
        "locality": [{"prompt": "l1"}, {"prompt": "l2", "answer": "x"}],
        "portability": [{"prompt": "q", "answer": ["x", "y"]}],
        "verbatim": False,
        "relation": "head",
        "source": {"page": [1, 2]},
    }


@pytest.mark.parametrize("verbatim", [None, True, False])
def test_a_record_is_read_back_as_the_same_edit(verbatim):
    edit = Edit("p", "x = DF", verbatim=verbatim, metadata={"relation": "head"})
    assert Edit.from_record(edit.to_record()) == edit
    assert edit.is_right("x = df") is (verbatim is not True)
    assert edit.is_right("x = DF")
