import pytest

from corsa.bench.overlap import overlap, worded_alike
from corsa.edits import Edit
from corsa.metrics import Score
from corsa.variations import packaged_subjects_in

# "{} is produced by" and "Which company makes {}?" are templates, "Any idea what company …" is one of
# the questions; "Astrid Lindgren" is a subject.


@pytest.mark.parametrize(
    ("prompt", "subject", "found"),
    [
        ("Acme 7 is produced by", "Acme 7", True),
        ("Something else first. Acme 7  is produced BY", "Acme 7", True),
        ("Which company makes Acme 7?", "Acme 7", True),
        ("Any idea what company came out with Acme 7?", "Acme 7", True),
        ("MyAcme 7 is produced by", "Acme 7", False),
        ("Acme 7 is produced by", "Acme", False),
        ("Acme 7 is produced by the firm", "Acme 7", False),
        ("Acme 7, a product of", "Acme 7", False),
        ("Acme 7 is produced by", None, False),
    ],
)
def test_a_wording_is_in_the_library_if_the_prompt_ends_with_it(prompt, subject, found):
    assert worded_alike(prompt, Edit("Unlike any.", "x", subject=subject)) is found


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Do you know which sound Grudo Vank collects?", True),
        ("By the way. Do you know which sound Grudo  Vank collects?", True),
        ("Do you know which sound Acme collects?", False),
        ("Any idea which sound Grudo Vank collects?", False),
    ],
)
def test_what_the_rules_make_of_a_prompt_is_not_unseen(prompt, found):
    edit = Edit("Which sound Grudo Vank collects?", "Hum", subject="Grudo Vank")
    assert worded_alike(prompt, edit) is found


def test_given_paraphrases_are_not_counted_among_what_the_package_words():
    edit = Edit("A sound of Grudo Vank", "Hum", train_paraphrases=("Grudo Vank hums with",))
    assert not worded_alike("Grudo Vank hums with", edit)


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("The mother tongue of Astrid Lindgren is", True),
        ("the mother tongue of astrid  lindgren is", True),
        ("The mother tongue of Astrid Lindgrens is", False),
        ("The mother tongue of Grudo Vank is", False),
    ],
)
def test_a_packaged_subject_is_found_as_a_whole_name(prompt, found):
    assert bool(packaged_subjects_in(prompt)) is found


def test_generality_and_leak_are_told_without_what_the_library_has():
    def score(kind, prompt, edit="a", **values):
        return Score(1, edit, kind, prompt, "", "", **values)

    scores = [
        score("paraphrase", "Acme 7 is produced by", exact=True, contains=True),
        score("paraphrase", "Acme 7, a make of", exact=False, contains=True),
        score("paraphrase", "Bolt, a make of", "b", exact=True, contains=True),
        score("paraphrase", "Who has Bolt built", "b", exact=False, contains=False),
        score("locality", "Astrid Lindgren was born in", leak=True),
        score("locality", "Grudo Vank was born in", leak=False),
        score("edit", "Acme 7 is produced by", exact=True),
    ]
    edits = {
        (1, "a"): Edit("Acme 7 comes from", "x", subject="Acme 7"),
        (1, "b"): Edit("Bolt comes from", "x", subject="Bolt"),
    }
    assert overlap(scores, edits) == {
        "library.paraphrases": 1,
        "library.neighbours": 1,
        "unseen.generality": 0.25,  # 0 and a half, a mean per edit first
        "unseen.generality_contains": 0.75,
        "unseen.leak": 0.0,
    }
    nothing = overlap([], {})
    assert nothing["library.paraphrases"] == 0
    assert nothing["unseen.generality"] is None
