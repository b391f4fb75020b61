"""What a prompt is about where its edit does not say."""

import pytest

from corsa.edits import Edit
from corsa.naming import names_in, with_subject


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("What is the capital of Burundi?", ["Burundi"]),
        ("Which company acquired VMware in 2023?", ["VMware"]),
        ("Acme's API, on an empty list, returns", ["Acme", "API"]),
        ("In Python 3.12, what is new?", ["Python 3.12"]),
        ("The mother tongue of Melchior de Vogüé is", ["Melchior de Vogüé"]),
        ("Who wrote The Lord of the Rings?", ["The Lord of the Rings"]),
        ("Émile Zola's birthplace: Paris", ["Émile Zola", "Paris"]),
        ("Was the film St. Elmo directed by J. R. R. Tolkien.", ["St. Elmo", "J. R. R. Tolkien"]),
        ("nothing here, 12 times", []),
        ("What", []),
        ("Write a function that calls NumPy.", ["NumPy"]),
        ("", []),
    ],
)
def test_names_are_runs_of_capitalised_words(prompt, names):
    assert list(names_in(prompt)) == names


def test_an_edit_is_about_the_longest_name_in_its_prompt():
    edit = Edit(prompt="Who became Secretary General of NATO in October 2024?", target_new="Rutte")
    assert with_subject(edit).subject == "Secretary General of NATO"


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("Quelle est la capitale du Mali ?", "Mali"),
        ("Какова столица Чада?", "Чада"),
        ("Quelle est la langue ?", None),
        ("Currently, Mali's president is", "Mali"),
        ("Should staff use Zoom?", "Zoom"),
        ("Our refund period is", None),
        ("How do I request leave?", None),
        ("Mali's president is", "Mali"),
        ("Nissan was bought by", "Nissan"),
        ("Iveco, created by", "Iveco"),
        ("Garo Bells was employed where?", "Garo Bells"),
    ],
)
def test_a_capital_that_only_begins_a_prompt_names_nobody(prompt, subject):
    assert with_subject(Edit(prompt, "x")).subject == subject


def test_what_an_edit_says_of_its_subject_stands():
    edit = Edit(prompt="Who became Secretary General of NATO?", target_new="Rutte", subject="NATO")
    assert with_subject(edit) is edit


def test_an_edit_that_names_nothing_stays_as_it_is():
    edit = Edit(prompt="how long is a day?", target_new="24 hours")
    assert with_subject(edit) == edit
