import unicodedata

import pytest

from corsa.matching import contains, exact, is_verbatim, normalise, squad, strip_answer


@pytest.mark.parametrize(
    ("reply", "target"),
    [
        ("Paris", "Paris"),
        ("paris", "PARIS"),
        ("Paris.", "Paris"),
        ('"Paris"', "Paris"),
        ('"Paris."', "Paris"),
        ('"Paris".', "Paris"),
        ("“Paris”", "Paris"),
        ("«Paris»", "Paris"),
        ("`len(x)`", "len(x)"),
        ("  New\n York ", "New York"),
        ("Straße", "STRASSE"),
        ("Ｐａｒｉｓ", "Paris"),
        ("ﬁrst", "first"),
        (unicodedata.normalize("NFD", "Orléans"), "Orléans"),
        ("U.S.", "U.S"),
    ],
)
def test_exact_ignores_only_form(reply, target):
    assert exact(reply, target)
    assert exact(target, reply)


@pytest.mark.parametrize(
    ("reply", "target"),
    [
        ("C++", "C#"),
        ("C++", "C"),
        ("Paris, France", "Paris"),
        ("It is Paris", "Paris"),
        ("Paris!", "Paris"),
        ("Paris..", "Paris"),
        ("the Paris", "Paris"),
        ('"Paris', "Paris"),
        ("''Paris''", "Paris"),
        ("Orléans", "Orleans"),
        ("", "Paris"),
    ],
)
def test_exact_sees_every_other_difference(reply, target):
    assert not exact(reply, target)


@pytest.mark.parametrize(
    ("reply", "target"),
    [
        ("The capital is Paris.", "Paris"),
        ("(paris)", "Paris"),
        ("written in C++, mostly", "C++"),
        ("snake_case_paris", "paris"),
        ("in 1984.", "1984"),
        ("New\nYork City", "New York"),
        ("She said “Paris”", '"Paris."'),
        ("a.b matches", "a.b"),
    ],
)
def test_contains_finds_the_target_anywhere(reply, target):
    assert contains(reply, target)


@pytest.mark.parametrize(
    ("reply", "target"),
    [
        ("Parisian", "Paris"),
        ("in 19845", "1984"),
        ("in 21984", "1984"),
        ("xParis", "Paris"),
        ("éParis", "Paris"),
        ("written in C#", "C++"),
        ("axb", "a.b"),
        ("", "Paris"),
    ],
)
def test_contains_is_not_fooled_by_longer_runs_or_patterns(reply, target):
    assert not contains(reply, target)


@pytest.mark.parametrize("target", ["", " ", ".", '""', "“.”"])
def test_contains_refuses_an_empty_target(target):
    with pytest.raises(ValueError, match="empty target"):
        contains("anything", target)


def test_squad_makes_languages_equal_that_exact_keeps_apart():
    assert squad("C++", "C#")
    assert squad("The Eiffel Tower!", "eiffel tower")
    assert not squad("Paris", "London")
    assert not exact("C++", "C#")


@pytest.mark.parametrize("text", ["İstanbul", "ǰ", "ﬀ", "Ⅳ", "…", "ß", "한글"])
def test_normalise_is_idempotent_and_form_blind(text):
    assert normalise(normalise(text)) == normalise(text)
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(text)


def test_strip_answer_removes_one_full_stop_and_one_pair_of_quotes():
    assert strip_answer(" 'Paris.' ") == "paris"
    assert strip_answer('"a" and "b"!') == '"a" and "b"!'
    assert strip_answer('"') == '"'
    assert strip_answer("…") == ".."


# --- Programs -------------------------------------------------------------------------------------

CODE = "```python\ndef f(x):\n    return X\n```"


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        (CODE, True),
        (f"\n{CODE}\n\n", True),
        (f"    {CODE}", True),
        (CODE.replace("(x):", "(x):   "), True),
        (CODE.replace("    return", "  return"), False),
        (CODE.replace("X", "x"), False),
        (CODE.replace("X", "X."), False),
        (CODE.replace("\n    ", "\n\n    "), False),
        (f"Here: {CODE}", False),
    ],
)
def test_a_program_is_compared_verbatim(reply, right):
    assert exact(reply, CODE) is right


def test_an_indented_program_is_right_without_its_first_indentation():
    """Replies come without the white space around them."""
    body = "    y = x\n    y += 1\n    return y"
    assert exact(body.strip(), body)
    assert exact(body, body)
    assert not exact(body.strip().replace("    return", "return"), body)
    assert contains(f"def f(x):\n{body}\n", body)
    assert contains(body.strip(), body)
    assert not contains(f"def f(x): {body}", body)


def test_a_line_of_a_program_is_compared_as_it_is_written_where_that_is_said():
    target = "x = df.append(y)"
    for reply in ("X = df.append(y)", "x  = df.append(y)", "`x = df.append(y)`", f"{target}."):
        assert exact(reply, target)
        assert not exact(reply, target, verbatim=True)
    assert exact(f"  {target}\n", target, verbatim=True)
    assert contains(f"Write `{target}`.", target, verbatim=True)
    assert contains("Write X = DF.append(y).", target)
    assert not contains("Write X = DF.append(y).", target, verbatim=True)


def test_many_lines_are_compared_like_a_phrase_where_that_is_said():
    poem = "Roses\nare\nred."
    assert not exact("roses are red", poem)
    assert exact("roses are red", poem, verbatim=False)
    assert contains("Well: roses are red, they say.", poem, verbatim=False)


def test_a_program_stands_in_a_reply_line_by_line():
    assert contains(f"Here it is:\n{CODE}\nDone.", CODE)
    assert not contains(f"Here it is: {CODE}", CODE)
    assert not contains(CODE.replace("    return", "  return"), CODE)


@pytest.mark.parametrize(
    ("target", "program"),
    [
        ("Ann", False),
        ("New\nYork", False),
        ("a\nb\nc", True),
        ("```x```", True),
        ("\n\nAnn\n\n", False),
    ],
)
def test_what_is_taken_for_a_program(target, program):
    assert is_verbatim(target) is program


def test_a_script_without_spaces_tells_no_words_apart():
    assert contains("巴黎是法国的首都", "法国")
    assert contains("パリはフランスの首都です", "フランス")
    assert not contains("巴黎是法国的首都", "德国")
    assert not contains("Die Gitegaer Straße", "Gitega")
