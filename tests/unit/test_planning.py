import json

import pytest

from corsa.edits import Edit
from corsa.planning import active, plan_edit, planned_from_record


def plan(round_id, edit, history=(), reply="Bob.", first_words=None):
    return plan_edit(round_id, edit, history, reply, reply if first_words is None else first_words)


def fact(prompt, target, **fields):
    relation = fields.pop("relation", None)
    return Edit(prompt, target, metadata={"relation": relation} if relation else {}, **fields)


def test_a_given_old_answer_is_kept():
    planned = plan(1, Edit("Who leads X?", "Ann", target_old="Zoe"))
    assert (planned.target_old, planned.old_from) == ("Zoe", "given")
    assert planned.trained
    assert not planned.already_said
    assert planned.reply_before == "Bob."


def test_without_one_it_is_what_the_model_says_today():
    planned = plan(1, Edit("Who leads X?", "Ann"), reply="Bob. He is old.", first_words="Bob.")
    assert (planned.target_old, planned.old_from) == ("Bob.", "elicited")
    assert not planned.already_said
    assert planned.reply_before == "Bob. He is old."


def test_a_model_that_says_the_new_answer_has_no_old_one():
    planned = plan(1, Edit("Who leads X?", "Ann"), reply="It is ann, of course.")
    assert planned.target_old is None
    assert planned.already_said
    assert planned.trained


def test_a_reply_in_another_case_does_not_say_an_answer_that_is_compared_verbatim():
    edit = Edit("Write it.", "x = df", id="a", verbatim=True)
    planned = plan(1, edit, reply="x = DF")
    assert (planned.target_old, planned.already_said) == ("x = DF", False)
    assert plan(2, edit, [planned], reply="x = DF").trained
    assert not plan(2, edit, [planned], reply="x = df").trained


@pytest.mark.parametrize("reply", ["", ".", '""', '"."'])
def test_an_empty_reply_is_no_old_answer_and_says_nothing(reply):
    planned = plan(1, Edit("Who leads X?", "Ann"), reply=reply)
    assert planned.target_old is None
    assert planned.old_from == "elicited"
    assert not planned.already_said
    assert planned.trained


def test_a_new_target_for_an_old_prompt_replaces_the_earlier_edit():
    first = plan(1, Edit("Who leads X?", "Ann", id="a"))
    second = plan(2, Edit("who  leads x?", "Cid", id="b"), [first], reply="Ann")
    assert (second.target_old, second.old_from) == ("Ann", "earlier target")
    assert second.supersedes == ((1, "a"),)
    assert second.repeats is None
    assert second.trained
    assert active([first, second]) == [second]


def test_the_earlier_target_wins_over_a_given_old_answer():
    first = plan(1, Edit("Who leads X?", "Ann"))
    second = plan(2, Edit("Who leads X?", "Cid", target_old="Zoe"), [first])
    assert second.target_old == "Ann"


def test_a_fact_may_change_back():
    first = plan(1, Edit("Who leads X?", "Ann", id="a"))
    second = plan(2, Edit("Who leads X?", "Cid", id="b"), [first])
    third = plan(3, Edit("Who leads X?", "Ann", id="a"), [first, second], reply="Cid")
    assert (third.target_old, third.supersedes) == ("Cid", ((2, "b"),))
    assert active([first, second, third]) == [third]


@pytest.mark.parametrize(
    ("reply", "trained"), [("Ann.", False), ("Bob", True), ("Ann it is", True)]
)
def test_a_repeated_edit_keeps_its_first_old_answer_and_is_trained_only_if_not_right(
    reply, trained
):
    first = plan(1, Edit("Who leads X?", "Ann", id="a"), reply="Bob.")
    again = plan(2, Edit("Who leads X?", "ann", id="c", target_old="Zoe"), [first], reply=reply)
    assert (again.target_old, again.old_from) == ("Bob.", "first round")
    assert again.repeats == (1, "a")
    assert again.supersedes == ()
    assert again.trained is trained
    assert active([first, again]) == [again]


@pytest.mark.parametrize("more", ["train_paraphrases", "keep"])
def test_a_repeated_edit_that_is_right_is_trained_on_what_is_new_in_it(more):
    first = plan(1, Edit("Who leads X?", "Ann", id="a", **{more: ("Head of X?", "Boss of X?")}))
    for given, trained in ((("Boss of X?",), False), (("Boss of X?", "X is led by"), True)):
        again = plan(2, Edit("Who leads X?", "Ann", id="a", **{more: given}), [first], reply="Ann")
        assert (again.trained, again.repeats) == (trained, (1, "a"))


def test_a_repeated_edit_that_was_said_already_still_has_no_old_answer():
    first = plan(1, Edit("Who leads X?", "Ann"), reply="Ann")
    again = plan(2, Edit("Who leads X?", "Ann"), [first], reply="Bob")
    assert again.target_old is None
    assert again.already_said
    assert again.trained


def test_subject_and_relation_name_a_fact_in_other_words():
    first = plan(1, fact("Who leads X?", "Ann", id="a", subject="X", relation="head"))
    second = plan(2, fact("The head of X is", "Cid", id="b", subject="x", relation="Head"), [first])
    assert (second.target_old, second.supersedes) == ("Ann", ((1, "a"),))


@pytest.mark.parametrize(
    "other",
    [
        fact("The head of X is", "Cid", subject="X", relation="founder"),
        fact("The head of X is", "Cid", subject="Y", relation="head"),
        fact("The head of X is", "Cid", subject="X"),
        fact("The head of X is", "Cid", relation="head"),
    ],
)
def test_another_fact_replaces_nothing(other):
    first = plan(1, fact("Who leads X?", "Ann", subject="X", relation="head"))
    second = plan(2, other, [first])
    assert (second.supersedes, second.repeats, second.old_from) == ((), None, "elicited")


def test_another_wording_with_the_same_target_is_an_edit_of_its_own():
    first = plan(1, fact("Who leads X?", "Ann", id="a", subject="X", relation="head"))
    second = plan(2, fact("The head of X is", "Ann", id="b", subject="X", relation="head"), [first])
    assert (second.supersedes, second.repeats, second.trained) == ((), None, True)
    assert second.old_from == "elicited"
    assert active([first, second]) == [first, second]


def test_a_changed_fact_replaces_all_its_wordings():
    first = plan(1, fact("Who leads X?", "Ann", id="a", subject="X", relation="head"))
    second = plan(2, fact("The head of X is", "Ann", id="b", subject="X", relation="head"), [first])
    third = plan(
        3, fact("X is led by", "Cid", id="c", subject="X", relation="head"), [first, second]
    )
    assert third.supersedes == ((1, "a"), (2, "b"))
    assert active([first, second, third]) == [third]


def test_edits_of_other_facts_stay():
    first = plan(1, Edit("Who leads X?", "Ann"))
    second = plan(2, Edit("Who leads Y?", "Cid"), [first])
    assert active([first, second]) == [first, second]
    assert second.key == (2, second.edit.id)


def test_a_plan_comes_back_from_its_record():
    first = plan(1, Edit("Who leads X?", "Ann"))
    second = plan(2, fact("Who leads X?", "Cid", subject="X", relation="head"), [first])
    again = plan(3, Edit("Who leads X?", "Cid"), [first, second], reply="Cid")
    for planned in (first, second, again):
        record = json.loads(json.dumps(planned.to_record()))
        notes = record.pop("corsa")
        read = planned_from_record(planned.round, Edit.from_record(record), notes)
        assert read == planned


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("field", ["train_paraphrases", "paraphrases"])
def test_a_wording_of_one_edit_that_another_asks_is_one_fact(turned, field):
    edits = [
        Edit("Who is the CEO of Acme?", "Jane", **{field: ("Who runs Acme?",)}),
        Edit("who runs  Acme?", "Bob"),
    ]
    first, second = edits[::-1] if turned else edits
    earlier = plan(1, first)
    later = plan(2, second, [earlier])
    assert later.supersedes == (earlier.key,)
    assert (later.target_old, later.old_from) == (first.target_new, "earlier target")


def test_wordings_that_two_edits_only_measure_make_them_no_one_fact():
    shared = {"paraphrases": ("Who is it?",)}
    first = plan(1, Edit("Who leads X?", "Ann", **shared))
    assert plan(2, Edit("Who leads Y?", "Bob", **shared), [first]).supersedes == ()
