"""Fresh wordings and other subjects: by hand, and that nothing edited is ever asked for as it was."""

from dataclasses import replace

import numpy as np
import pytest

from corsa.edits import Edit, Probe
from corsa.matching import normalise
from corsa.variations import (
    Edited,
    Shape,
    asked_besides,
    asks,
    library,
    matching_relation,
    near_misses,
    other_relation,
    other_subject,
    passing_remarks,
    positive,
    subjects_by_kind,
    topic_of,
    with_other_numbers,
)

GARO = Edit("Garo Bells was employed in", "Oslo", subject="Garo Bells")
UNKNOWN = Edit("Zzyx qua Garo Bells plom?", "Oslo", subject="Garo Bells")
NAMELESS = Edit("Who is king?", "Ann")
WHO_LEADS = Edit("Who became CEO of Garo Bells in July?", "Ann", subject="Garo Bells")
LACKS_ITS_END = Edit("Garo Bells ploms in the town of", "Oslo", subject="Garo Bells")
CAR = Edit("Vex 911, created by", "Lada", subject="Vex 911")


class Draws:
    """A generator whose numbers are given: shares in turn, and always the same place in a list."""

    def __init__(self, *shares, place=0):
        self.shares = list(shares)
        self.place = place

    def random(self):
        return self.shares.pop(0)

    def integers(self, size):
        return min(self.place, size - 1)


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(count, make):
    generator = rng()
    return [make(generator) for _ in range(count)]


# --- What a prompt asks after ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "relation"),
    [
        ("{} was employed in", "place of work"),
        ("{} worked as a", "profession"),
        ("{}, created by", "maker"),
        ("Which company makes {}?", "maker"),
        ("{} died in the city of", "place of death"),
        ("{}'s domain of activity is", "field of work"),
        ("The twin city of {} is", "twin city"),
        ("Zzyx qua {} plom?", None),
        ("{}", None),
        ("What does {} return on an empty list?", None),
        ("Who is the president of {}?", "president"),
        ("Who is the vice president of {}?", None),
        ("The prime minister of {} is", "prime minister"),
        ("Who is the chairman of {}?", "chair"),
        ("Where did {} die?", "place of death"),
        ("When did {} die?", "date of death"),
        ("When was {} born?", "date of birth"),
        ("Who is {}'s mother?", "mother"),
        ("What is the area of {}?", "area"),
        ("{}, who plays the", "instrument"),
        ("Who became CEO of {} in July?", None),
        # A packaged question has these words, and asks after something else.
        ("{} was launched in", None),
        ("{} was first found in", None),
        ("What city is {} in?", None),
        ("How long is {}?", None),
        ("Where does {} play?", None),
        ("Who did {} found?", None),
    ],
)
def test_a_prompt_is_matched_by_its_rare_words(prompt, relation):
    found = matching_relation(tuple(prompt.split("{}")))
    assert (found and found.name) == relation


def test_every_packaged_template_leaves_one_subject_open_and_names_known_kinds():
    kinds = subjects_by_kind()
    for relation in library():
        assert relation.kinds
        assert set(relation.kinds) <= set(kinds)
        assert len(relation.templates) >= 4
        assert all(len(template) == 2 for template in relation.wordings())
        wordings = {normalise("{}".join(template)) for template in relation.wordings()}
        assert len(wordings) == len(relation.wordings())


def test_a_topic_knows_other_wordings_and_subjects_of_the_same_kind():
    topic = topic_of(GARO)
    assert topic.relation.name == "place of work"
    assert (topic.subject, topic.template) == ("Garo Bells", ("", " was employed in"))
    assert topic.template not in topic.others
    assert ("", " used to work in") in topic.others
    assert set(topic.relation.questions) < set(topic.others)
    assert "Django Reinhardt" in topic.likes
    assert "Rotterdam" not in topic.likes


def test_a_subject_is_found_in_any_case_everywhere_and_as_a_whole_word():
    topic = topic_of(Edit("Is ANN Anna, or ann?", "no", subject="Ann"))
    assert topic.template == ("Is ", " Anna, or ", "?")
    assert Shape("", topic.template).about("Bo") == "Is Bo Anna, or Bo?"


def test_a_subject_is_found_in_a_script_without_spaces():
    topic = topic_of(Edit("法国的首都是哪里?", "里昂", subject="法国"))
    assert topic.template == ("", "的首都是哪里?")
    edited = Edited([Edit("法国的首都是哪里?", "里昂", subject="法国")])
    assert edited.named_in("请告诉我法国的首都是哪里")
    assert not edited.named_in("请告诉我德国的首都是哪里")


@pytest.mark.parametrize(
    "edit", [NAMELESS, Edit("Who is king?", "Ann", subject="Norway"), Edit("A{}b", "c")]
)
def test_a_prompt_that_names_no_subject_stays_as_it_is_behind_remarks(edit):
    topic = topic_of(edit)
    assert (topic.subject, topic.template, topic.others) == ("", (edit.prompt,), ())
    for shape in drawn(30, lambda r: positive(topic, r)):
        assert not shape.open
        assert shape.before
        assert shape.about(topic.subject) == shape.before + edit.prompt


def test_what_the_library_does_not_know_is_reworded_about_anybody():
    edit = Edit("Who succeeded Pope Francis?", "Leo", subject="Pope Francis")
    topic = topic_of(edit)
    assert topic.relation is None
    assert ("Tell me who followed ", ".") in topic.others
    assert all(len(template) == 2 for template in topic.others)
    assert not {"Tell me"} & {template[0][:7] for template in topic_of(GARO).others}


def test_braces_of_the_prompt_itself_leave_nothing_open():
    topic = topic_of(Edit("What prints {} in Acme's shell?", "x", subject="Acme"))
    assert Shape("", topic.template).about("Bo") == "What prints {} in Bo's shell?"


def test_wordings_that_may_be_trained_on_are_other_wordings():
    texts = ("Where did Garo Bells work?", "Tell me where he worked!")
    edit = Edit(UNKNOWN.prompt, "Oslo", subject="Garo Bells", train_paraphrases=texts)
    topic = topic_of(edit)
    assert topic.others == (("Where did ", " work?"), ("Tell me where he worked!",))
    assert topic.relation is None
    found = {shape.template for shape in drawn(80, lambda r: positive(topic, r))}
    assert found == {topic.template, *topic.others}


def test_what_is_measured_is_not_looked_at():
    measured = Edit(
        GARO.prompt, "Oslo", subject="Garo Bells",
        paraphrases=("Garo Bells used to work in",), locality=(Probe("x"),), portability=(Probe("y"),),
    )  # fmt: skip
    assert topic_of(measured) == topic_of(GARO)


# --- Positives -------------------------------------------------------------------------------------


def test_a_positive_is_another_template_with_or_without_a_remark():
    topic, remark = topic_of(GARO), passing_remarks()[0]
    first = next(template for template in topic.others if asks(template))
    assert positive(topic, Draws(0.69, 0.75)) == Shape("", first)
    assert positive(topic, Draws(0.69, 0.74, 0.9)) == Shape(f"{remark} ", first)
    assert positive(topic, Draws(0.69, 0.74, 0.1)).before == f"{remark} {remark} "


def test_or_the_own_template_always_behind_a_remark():
    topic, remark = topic_of(GARO), passing_remarks()[0]
    assert positive(topic, Draws(0.7, 0.9)) == Shape(f"{remark} ", topic.template)


def test_a_positive_is_never_the_prompt_itself_and_seldom_the_same_twice():
    for edit in (GARO, UNKNOWN, NAMELESS):
        topic = topic_of(edit)
        prompts = [s.about(topic.subject) for s in drawn(100, lambda r, t=topic: positive(t, r))]
        assert edit.prompt not in prompts
        assert len(set(prompts)) > 60


@pytest.mark.parametrize("edit", [GARO, WHO_LEADS, LACKS_ITS_END])
def test_other_templates_ask_as_often_as_they_are_to_be_finished(edit):
    topic = topic_of(edit)
    shapes = drawn(3000, lambda r: positive(topic, r))
    asked = [asks(shape.template) for shape in shapes if shape.template != topic.template]
    assert sum(asked) / len(asked) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("Where did {} work?", True),
        ("Tell me where {} works.", True),
        ("who is the head of {}", True),
        ("Question: Who is {}? Answer:", True),
        ("in which city was {} killed", True),
        ("{}在哪里？", True),
        ("Fill in what is missing: {} plays for ...", False),
        ("{} worked in", False),
        ("The one who founded {} is", False),
        ("Whitney {} plays", False),
    ],
)
def test_what_asks(prompt, wanted):
    assert asks(tuple(prompt.split("{}"))) is wanted


def test_every_relation_has_questions_and_sentences():
    for relation in library():
        assert all(map(asks, relation.questions))
        questions = sum(map(asks, relation.wordings()))
        assert questions >= 7
        assert len(relation.wordings()) - questions >= 3


def test_shares_of_what_positives_are():
    topic = topic_of(GARO)
    shapes = drawn(3000, lambda r: positive(topic, r))
    other = [shape for shape in shapes if shape.template != topic.template]
    assert len(other) / len(shapes) == pytest.approx(0.7, abs=0.03)
    assert sum(bool(s.before) for s in other) / len(other) == pytest.approx(0.75, abs=0.03)


# --- Other subjects --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "other", "wanted"),
    [
        ("Garo Bells", "Stan Getz", ["Garo Getz", "Stan Bells", "Garo Stan Getz"]),
        ("A B C", "X Y", ["A B Y", "X B C", "A X Y"]),
        ("Pope Francis", "Getz", ["Pope Getz", "Getz Francis"]),
        ("Vex 911", "Saab 900", ["Vex 900", "Saab 911", "Vex Saab 900", "Vex 777"]),
        ("Vex 7", "Vex 8", ["Vex 8", "Vex Vex 8"]),
        ("R2D2", "Lego", ["R7D7"]),
        ("Vex0911", "Lego", ["Vex7777"]),
        ("Oslo", "Graz", []),
        ("Garo Bells", "garo BELLS", ["Garo garo BELLS"]),
    ],
)
def test_near_misses(subject, other, wanted):
    assert near_misses(subject, other, Draws(0.9, 0.9, place=7)) == wanted


def test_other_numbers_differ_in_one_digit_as_often_as_in_any():
    """The A320 is nearer to the A340 than the A517 is, and is what people ask about."""
    made = [with_other_numbers("Airbus A340", rng(i))[-3:] for i in range(400)]
    differ = [sum(a != b for a, b in zip(number, "340", strict=True)) for number in made]
    # Half of them nine in ten times, and a few of the others.
    assert 0.4 < differ.count(1) / len(made) < 0.6
    assert differ.count(3) > 0.25 * len(made)
    assert {number for number, by in zip(made, differ, strict=True) if by == 1} > {
        "320",
        "350",
        "380",
    }


def test_in_place_of_a_year_stands_one_that_people_write_of():
    years = {near_misses("2022 World Cup", "Oslo", rng(i))[-1].split()[0] for i in range(300)}
    assert years <= {str(year) for year in range(1982, 2063)} - {"2022"}
    assert len(years) > 40
    assert sum(int(year) < 2022 for year in years) > len(years) / 2


def test_another_subject_is_a_near_miss_a_longer_name_or_one_of_its_kind():
    topic = topic_of(GARO)
    like = topic.likes[0]
    assert other_subject(topic, Draws(0.59), 0.6) == f"Garo {like.split()[-1]}"
    assert other_subject(topic, Draws(0.60), 0.6) == "Garo Bells II"
    assert other_subject(topic, Draws(0.74), 0.6) == "Garo Bells II"
    assert other_subject(topic, Draws(0.76), 0.6) == like
    assert other_subject(topic, Draws(0.0), 0.0) == "Garo Bells II"
    assert other_subject(topic, Draws(0.99), 1.0) != like


def test_a_single_word_has_no_near_miss_and_takes_one_of_its_kind():
    topic = topic_of(Edit("The twin city of Beirut is", "Manila", subject="Beirut"))
    assert other_subject(topic, Draws(0.1), 0.6) == topic.likes[0]


@pytest.mark.parametrize("edit", [GARO, UNKNOWN, CAR])
def test_another_subject_is_never_the_subject(edit):
    topic = topic_of(edit)
    names = drawn(500, lambda r: other_subject(topic, r, 0.6))
    assert normalise(edit.subject) not in map(normalise, names)
    assert len(set(names)) > 100


def test_a_subject_of_the_pool_is_not_its_own_other():
    topic = topic_of(Edit("Stan Getz was employed in", "Oslo", subject="Stan Getz"))
    assert "Stan Getz" not in topic.likes
    assert "Chet Baker" in topic.likes


def test_unmatched_prompts_take_subjects_of_all_kinds():
    every = {name for names in subjects_by_kind().values() for name in names}
    assert set(topic_of(UNKNOWN).likes) == every


# --- Other relations -------------------------------------------------------------------------------


def test_something_else_is_asked_of_the_same_subject():
    topic = topic_of(GARO)
    own = {Shape("", t).about("Garo Bells") for t in (topic.template, *topic.others)}
    prompts = drawn(300, lambda r: other_relation(topic, r))
    assert all("Garo Bells" in prompt for prompt in prompts)
    assert own.isdisjoint(prompts)
    assert len(set(prompts)) > 100
    questions = {Shape("", q).about("Garo Bells") for r in library() for q in r.questions}
    assert questions & set(prompts)


@pytest.mark.parametrize("edit", [UNKNOWN, NAMELESS])
def test_nothing_else_is_asked_where_it_is_not_known_what_the_edit_asks(edit):
    assert other_relation(topic_of(edit), rng()) is None


# --- What must not be kept -------------------------------------------------------------------------


def test_prompts_that_name_an_edited_fact_are_found():
    edited = Edited([GARO, NAMELESS, Edit("How?", "so", train_paraphrases=("In what way?",))])
    assert edited.named_in("who is  KING?")
    assert edited.named_in("In what way?")
    assert edited.named_in("Where was garo bells born?")
    assert not edited.named_in("Where was Garo Bellsington born?")
    assert not edited.named_in("Where was Garo Bells born?", besides="garo  Bells")
    assert edited.named_in("Garo Bells was employed in", besides="Garo Bells")


def test_one_fact_of_a_subject_is_told_from_two():
    again = Edit(GARO.prompt, "Bergen", subject="garo bells")
    assert Edited([GARO, again, CAR]).only_fact_of("Garo Bells")
    assert not Edited([GARO, UNKNOWN]).only_fact_of("Garo Bells")


# --- What is asked of a subject besides -----------------------------------------------------------


def test_something_else_is_asked_of_a_subject_by_what_its_kind_has():
    edit = Edit("The capital of Burundi is", "Gitega", subject="Burundi")
    asked = asked_besides(topic_of(edit))
    assert asked == asked_besides(topic_of(edit))
    assert len(set(asked)) == 2
    assert all("Burundi" in prompt and asks((prompt,)) for prompt in asked)
    countries = {
        t for r in library() if "country or region" in r.kinds and r.name != "capital"
        for t in r.wordings()
    }  # fmt: skip
    assert {tuple(prompt.split("Burundi")) for prompt in asked} <= countries
    exam = Edited([edit])
    assert all(map(exam.examines, asked))
    assert not exam.examines("What is the capital of Burundi?")
    # What is trained on is no exam, and of two facts one question may ask the other.
    assert Edited([replace(edit, keep=asked[:1])]).besides(edit) == asked[1:]
    other = Edit(asked[0], "more", subject="Burundi")
    assert Edited([edit, other]).besides(edit) == []
    assert not Edited([edit, other]).examines(asked[1])


def test_of_a_subject_of_unknown_kind_is_asked_what_suits_anything():
    topic = topic_of(Edit("The chief widget of Acme is", "Bo", subject="Acme"))
    assert topic.relation is None
    assert asked_besides(topic) == [
        "What is Acme best known for?",
        "What can you tell me about Acme?",
    ]
    assert asked_besides(topic_of(Edit("Who is the boss?", "Bo"))) == []
