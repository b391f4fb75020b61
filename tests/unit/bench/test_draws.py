import pytest

from corsa.bench.draws import draw, shuffled
from corsa.edits import Edit, Probe
from corsa.errors import UsageError

EDITS = [Edit(f"Who is {n}?", f"Ann{n}", id=f"e{n}", target_old=f"Bob{n}") for n in range(200)]


def ids(drawn):
    return [[record["id"] for record in edits] for edits in drawn["rounds"]]


def test_a_seed_draws_the_same_edits_in_the_same_order():
    assert shuffled(EDITS, 3) == shuffled(EDITS[::-1], 3)
    assert shuffled(EDITS, 3) != shuffled(EDITS, 4)
    assert [edit.id for edit in shuffled(EDITS, 0)[:3]] == ["e186", "e114", "e109"]  # for ever


def test_no_edit_is_drawn_twice_and_rounds_are_full():
    rounds = ids(draw(EDITS, 0, 4, 5))
    assert [len(edits) for edits in rounds] == [5, 5, 5, 5]
    assert len({id for edits in rounds for id in edits}) == 20


def test_more_rounds_go_on_where_fewer_stopped():
    assert ids(draw(EDITS, 1, 5, 3))[:2] == ids(draw(EDITS, 1, 2, 3))


def test_too_few_edits_are_refused_with_what_there_is():
    with pytest.raises(UsageError, match="20 rounds of 11 edits take 220, and there are 200"):
        draw(EDITS, 0, 20, 11)


def test_known_only_keeps_what_the_base_model_gives_and_counts_what_was_drawn():
    asked = []

    def knows(edits):
        asked.extend(edits)
        return [int(edit.id[1:]) % 3 == 0 for edit in edits]

    drawn = draw(EDITS, 0, 2, 10, knows)
    kept = [id for edits in ids(drawn) for id in edits]
    order = [edit.id for edit in shuffled(EDITS, 0)]
    expected = [id for id in order if int(id[1:]) % 3 == 0][:20]
    assert kept == expected
    assert drawn["kept"] == 20
    assert drawn["drawn"] == order.index(expected[-1]) + 1
    assert len(asked) == 64  # one batch sufficed; the rest of the data set is not asked


def test_too_few_known_edits_are_refused():
    with pytest.raises(UsageError, match="there are 0 whose old answer the base model gives"):
        draw(EDITS, 0, 1, 1, lambda edits: [False] * len(edits))


def test_a_probe_whose_answer_another_drawn_edit_changes_is_left_out():
    edits = [
        Edit("Who is A?", "Ann", id="a", locality=(Probe("Who is B?"), Probe("Who is C?"))),
        Edit("Who is B?", "Ben", id="b"),
    ]
    drawn = draw(edits, 0, 2, 1)
    record = next(r for edits in drawn["rounds"] for r in edits if r["id"] == "a")
    assert record["locality"] == [{"prompt": "Who is C?"}]
    assert len(drawn["warnings"]) == 1


def refused(*numbers):
    return lambda edits: {edit.id: "long" for edit in edits if int(edit.id[1:]) in numbers}


def test_what_the_model_cannot_read_is_left_out_by_name_and_the_next_takes_its_place():
    order = [edit.id for edit in shuffled(EDITS, 0)]
    numbers = [int(order[place][1:]) for place in (1, 4, 50)]
    drawn = draw(EDITS, 0, 2, 2, unusable=refused(*numbers))
    assert [id for edits in ids(drawn) for id in edits] == [order[i] for i in (0, 2, 3, 5)]
    assert drawn["drawn"] == 6
    assert drawn["left_out"] == [{"record": f"edit {order[i]}", "why": "long"} for i in (1, 4)]
    assert draw(EDITS, 0, 2, 2)["left_out"] == []


def test_a_long_target_leaves_less_room_for_all_others():
    order = [edit.id for edit in shuffled(EDITS, 0)]

    def unusable(edits):
        return {order[0]: "long"} if {order[0], order[2]} <= {edit.id for edit in edits} else {}

    assert ids(draw(EDITS, 0, 1, 2, unusable=unusable)) == [order[:2]]
    assert ids(draw(EDITS, 0, 1, 3, unusable=unusable)) == [order[1:4]]


def test_of_known_edits_those_too_long_are_left_out_too():
    def knows(edits):
        return [int(edit.id[1:]) % 2 == 0 for edit in edits]

    even = [edit.id for edit in shuffled(EDITS, 0) if int(edit.id[1:]) % 2 == 0]
    drawn = draw(EDITS, 0, 1, 3, knows, refused(int(even[1][1:])))
    assert ids(drawn) == [[even[0], even[2], even[3]]]
    assert drawn["left_out"] == [{"record": f"edit {even[1]}", "why": "long"}]


def test_too_few_readable_edits_are_refused():
    with pytest.raises(
        UsageError, match="there are 197, 3 more the model cannot take: ask for fewer"
    ):
        draw(EDITS, 0, 20, 10, unusable=refused(1, 2, 3))
