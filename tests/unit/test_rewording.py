"""Other wordings by rules: what comes out, what stays as it is, and that nothing is broken off."""

import re

import pytest

from corsa.rewording import rewordings


def wordings(prompt, name=""):
    return set(rewordings(prompt, name))


def test_a_question_is_asked_in_other_ways():
    found = wordings("Who became CEO of Acme in 2021?", "Acme")
    assert {
        "Tell me who became CEO of Acme in 2021.",
        "Question: Who became CEO of Acme in 2021? Answer:",
        "who became CEO of Acme in 2021",
        "The one who became CEO of Acme in 2021 is",
        "Who was appointed CEO of Acme in 2021?",
        "Do you know who became chief executive of Acme in 2021?",
    } <= found


def test_what_is_asked_after_can_be_named():
    found = wordings("What is the vocal range of Ann?", "Ann")
    assert {"The vocal range of Ann is", "Name the vocal range of Ann."} <= found


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the city of Allahabad called today?",
        "What was the network Twitter renamed to in 2023?",
        "What is the river that Ann lives on?",
    ],
)
def test_a_phrase_that_lacks_its_end_is_not_named(prompt):
    assert not [w for w in wordings(prompt) if re.match(r"Name |The (city|network|river)", w)]


@pytest.mark.parametrize("prompt", ["Which country has many people?", "What voice type is Ann?"])
def test_who_did_something_is_asked_of_people_alone(prompt):
    assert not [w for w in wordings(prompt) if w.startswith(("The one who", "Name who"))]


def test_a_question_that_ends_with_its_word_is_turned_round():
    found = wordings("The maker of Acme X is what?", "Acme X")
    assert {"What is the maker of Acme X?", "Name the maker of Acme X."} <= found


def test_a_sentence_is_to_be_finished():
    found = wordings("Garo Bells plom in the city of", "Garo Bells")
    assert {
        "Complete the sentence: Garo Bells plom in the city of",
        "Garo Bells plom in the town of",
    } <= found


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("Ann's tutor is", "Who is Ann's tutor?"),
        ("The rank of Ann was", "What was the rank of Ann?"),
        ("The school where Ann was taught is", "What is the school where Ann was taught?"),
        ("Ann is famous for", "What is Ann famous for?"),
        ("Ann is a", "What is Ann?"),
        ("Ann is known as the", "What is Ann known as?"),
        ("Ann was lost in the town of", "Which town was Ann lost in?"),
        ("Ann was named by the king of", "What was Ann named by the king of?"),
        ("Ann plays for", "What is it that Ann plays for?"),
        ("Ann has been married to", "What is it that Ann has been married to?"),
        ("Ann fought in the province of", "Which province is it that Ann fought in?"),
    ],
)
def test_a_sentence_is_asked_for_what_it_lacks(sentence, question):
    found = wordings(sentence, "Ann")
    assert {question, f"{question} I forgot."} <= found


def test_and_within_a_name_joins_no_sentences():
    found = wordings("The rank of Ann and Bob is", "Ann and Bob")
    assert "What is the rank of Ann and Bob?" in found


@pytest.mark.parametrize(
    "sentence",
    [
        "The tutor of Ann is Bob and the tutor of Eve is",
        "As of today the tutor of Ann is",
        "The tutor of Ann, the queen, is",
    ],
)
def test_a_sentence_that_is_not_understood_is_not_asked(sentence):
    assert not [w for w in wordings(sentence, "Ann") if re.match(r"(?i)what |who ", w)]


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("Where is Ann based?", "Ann is based in"),
        ("Where is Ann from?", "Ann is from"),
        ("What is Ann known for?", "Ann is known for"),
        ("Which town was Ann lost in?", "Ann was lost in the town of"),
        ("In which town was Ann killed?", "Ann was killed in the town of"),
        ("In which year was Ann killed?", "Ann was killed in the year"),
    ],
)
def test_a_question_is_stated_up_to_its_answer(question, sentence):
    found = wordings(question, "Ann")
    assert {sentence, f"As everybody knows, {sentence}"} <= found


@pytest.mark.parametrize(
    "question",
    [
        "How is Ann?",
        "Which firm owns Ann?",
        "Who is the boss of Ann?",
        "When was Ann killed?",
        "What colour is Ann?",
        "What does Ann have?",
        "Which team does Ann now play for?",
        "What role is Ann seen in on Sundays?",
        "Who was Ann before she married?",
        "Who is Ann Bell married to?",
        "What is Ann in French?",
    ],
)
def test_a_question_whose_answer_stands_elsewhere_is_not_stated(question):
    assert not [w for w in wordings(question, "Ann") if w.startswith("Ann ")]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "def f():\n    return 1",
        "Write a function that adds.",
        "Is it raining?",
        "Was kostet das?",
    ],
)
def test_what_is_not_understood_stays_alone(prompt):
    assert rewordings(prompt, "") == ()


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Who founded The Capital Company?", "The Capital Company"),
        ("What is the name of Which City Film?", "Which City Film"),
        ("Which team plays in President King Park?", "President King Park"),
    ],
)
def test_the_name_is_never_touched(prompt, name):
    found = rewordings(prompt, name)
    assert len(found) > 10
    assert all(name in wording for wording in found)


def test_each_comes_once_and_never_the_prompt_itself():
    for prompt in ("Which company bought Acme?", "Who is the king of Norway?", "Ann plom"):
        found = rewordings(prompt, "")
        assert len(found) == len(set(found)) > 5
        assert prompt not in found
