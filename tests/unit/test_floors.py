"""The floor under agreement: the same numbers as ever, and no question asked twice."""

import pytest

from corsa import floors
from corsa.answerers import ModelAnswerer, RememberingAnswerer
from corsa.config import Config
from corsa.evaluation import AGREEMENT_TOKENS, first_tokens
from corsa.floors import agreement_floors
from corsa.models import load_model
from fakes import save_tiny

NEAR = [f"Where is {letter}?" for letter in "ABCDEFGH"]
FAR = ["What is 2 + 2?", "Who was it?", "Where is A?"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def model(folder):
    return load_model(folder, Config())


@pytest.fixture
def twins(monkeypatch):
    """The copies that are loaded, each with the prompts it is asked."""
    found, load = [], floors.load_source

    class Listening(ModelAnswerer):
        def answers(self, prompts, *rest):
            found[-1] += prompts
            return super().answers(prompts, *rest)

    def counted(*args, **keywords):
        found.append([])
        return load(*args, **keywords)

    monkeypatch.setattr(floors, "load_source", counted)
    monkeypatch.setattr(floors, "ModelAnswerer", Listening)
    return found


def test_it_is_the_share_that_begins_alike_in_both_precisions(model, folder):
    twin = ModelAnswerer(load_model(folder, Config(dtype="bfloat16")))
    pairs = zip(
        ModelAnswerer(model).answers(NEAR, AGREEMENT_TOKENS),
        twin.answers(NEAR, AGREEMENT_TOKENS),
        strict=True,
    )
    same = [first_tokens(a) == first_tokens(b) for a, b in pairs]
    assert 0 < sum(same) < len(same)  # or the test would say little
    wanted = round(sum(same) / len(same), 6)
    assert agreement_floors(model, RememberingAnswerer(model), [NEAR]) == [wanted]
    assert agreement_floors(model, RememberingAnswerer(model), [[*NEAR, NEAR[0]]]) == [wanted]


def test_the_other_copy_is_loaded_once_and_asked_nothing_twice(model, twins):
    base = RememberingAnswerer(model)
    near, far, none = agreement_floors(model, base, [NEAR, FAR, []])
    assert none is None
    assert twins == [[*NEAR, "What is 2 + 2?", "Who was it?"]]
    assert agreement_floors(model, base, [FAR, NEAR[::-1], FAR]) == [far, near, far]
    assert len(twins) == 1
    agreement_floors(model, RememberingAnswerer(model), [[*NEAR, "And this?"]])
    assert twins[1:] == [["And this?"]]
    agreement_floors(model, base, [NEAR[:1]], "Be brief.")  # another question
    assert twins[2:] == [NEAR[:1]]


def test_a_large_model_is_not_loaded_twice(model, twins, monkeypatch):
    monkeypatch.setattr(floors, "_LARGEST", 10)
    assert agreement_floors(model, RememberingAnswerer(model), [NEAR, []]) == [None, None]
    assert twins == []
