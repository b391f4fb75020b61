import pytest

from corsa.memory import each_remembered, remembered


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path))
    return tmp_path


class Lengths:
    """Takes down what it is asked to compute."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(texts)
        return [len(text) for text in texts]


def test_a_value_is_computed_once():
    assert remembered("kind", ["key"], lambda: [1, None]) == [1, None]
    assert remembered("kind", ["key"], lambda: 1 / 0) == [1, None]
    assert remembered("kind", ["other"], lambda: 2) == 2
    assert remembered("other", ["key"], lambda: 3) == 3


def test_of_several_texts_only_new_ones_are_computed_and_these_together():
    lengths = Lengths()
    assert each_remembered("kind", ["key"], ["a", "bb", "a"], lengths) == [1, 2, 1]
    assert each_remembered("kind", ["key"], ["ccc", "bb", "dddd"], lengths) == [3, 2, 4]
    assert each_remembered("kind", ["key"], ["dddd", "a"], lengths) == [4, 1]
    assert each_remembered("kind", ["other"], ["a"], lengths) == [1]
    assert each_remembered("kind", ["key"], [], lengths) == []
    assert lengths.asked == [["a", "bb"], ["ccc", "dddd"], ["a"]]


def test_what_is_damaged_is_computed_again(cache):
    lengths = Lengths()
    each_remembered("kind", ["key"], ["a"], lengths)
    (file,) = (cache / "kind").iterdir()
    file.write_text('{"half', "utf-8")
    assert each_remembered("kind", ["key"], ["a"], lengths) == [1]
    assert lengths.asked == [["a"], ["a"]]


def test_texts_themselves_are_not_kept(cache):
    each_remembered("kind", ["key"], ["a secret"], Lengths())
    (file,) = (cache / "kind").iterdir()
    assert "secret" not in file.read_text("utf-8")
