import math
from fractions import Fraction

import pytest

from builders import Scripted, finished, planned
from corsa.bench.fluency import LENGTH, SUBJECTS, fluency, ngram_entropy, words


def bits(*frequencies):
    assert sum(map(Fraction, frequencies)) == 1
    return -sum(float(Fraction(f)) * math.log2(Fraction(f)) for f in frequencies)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # ab bc ca ab: half, quarter, quarter; abc bca cab: thirds
        ("a b c a b", bits("1/2", "1/4", "1/4") / 3 + 2 * bits("1/3", "1/3", "1/3") / 3),
        ("a a a a a a", 0.0),
        ("one two three", 1 / 3),  # two bigrams, one trigram
        ("one two", 0.0),
        ("", 0.0),
    ],
)
def test_entropy_worked_by_hand(text, expected):
    assert ngram_entropy(text) == pytest.approx(expected)


def test_signs_are_words_and_case_counts():
    assert words("It's 5 o'clock, É-mail.") == [
        *("It", "'", "s", "5", "o", "'", "clock", ",", "É", "-", "mail", ".")
    ]


def test_each_subject_is_asked_for_once_and_their_number_has_an_end():
    subjects = [*("Ann", "Bob", "Ann", None), *(f"s{i}" for i in range(50))]
    asked = []

    class Listening(Scripted):
        def answers(self, prompts, max_new_tokens, system=None, progress=None):
            asked.extend(prompts)
            assert max_new_tokens == LENGTH
            return super().answers(prompts, max_new_tokens)

    replies = {f"Write a paragraph about {s}.": "a b c a b" for s in subjects}
    edits = [planned(f"p{i}", subject=subject) for i, subject in enumerate(subjects)]
    said = dict.fromkeys(replies, "a b a")
    numbers = fluency(finished(edits, before=Scripted(said), after=Listening(replies)))
    # Of 52 subjects 32, from the first round to the last.
    assert asked[:3] == [f"Write a paragraph about {s}." for s in ("Ann", "Bob", "s1")]
    assert asked[-1] == "Write a paragraph about s48."
    assert len(asked) == SUBJECTS
    assert numbers == {
        "fluency": pytest.approx(ngram_entropy("a b c a b"), abs=1e-6),
        "fluency_words": 5,
        "fluency_base": pytest.approx(ngram_entropy("a b a"), abs=1e-6),
        "fluency_words_base": 3,
    }


def test_without_a_subject_there_is_no_number():
    nothing = fluency(finished([planned()], before=Scripted(), after=Scripted()))
    assert set(nothing.values()) == {None}
