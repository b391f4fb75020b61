"""Words that a model takes for alike, by its embedding; names made of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from corsa import siblings as module
from corsa.siblings import sibling_name, siblings

WORDS = {
    "Princeton": (1.0, 0.0, 0.0),
    "Yale": (0.9, 0.1, 0.0),
    "Harvard": (0.8, 0.3, 0.0),
    "Princes": (1.0, 0.01, 0.0),  # another form of the word, for all that is known
    "princely": (1.0, 0.02, 0.0),
    "II": (0.0, 1.0, 0.0),
    "campus": (1.0, 0.03, 0.0),  # no name
    "XV": (1.0, 0.04, 0.0),
    "III": (0.0, 0.9, 0.1),
    "XIV": (0.0, 0.8, 0.3),
    "Second": (0.0, 1.0, 0.02),
    "M": (0.9, 0.0, 0.0),
    "M5": (0.9, 0.0, 0.0),
}


def base(mark="Ġ", rows=None, dtype=torch.float32, **extra):
    tokens = [*(mark + word for word in WORDS), "Yale", "Beyond"]
    vectors = torch.tensor([*WORDS.values(), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0)])
    weight = vectors[: rows or len(vectors)].to(dtype)
    hf = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=weight))
    vocabulary = {token: number for number, token in enumerate(tokens)} | extra
    return SimpleNamespace(hf=hf, tokenizer=SimpleNamespace(get_vocab=lambda: vocabulary))


@pytest.mark.parametrize("mark", ["Ġ", "▁"])
@pytest.mark.parametrize("block", [2, 1000])
def test_they_are_words_of_the_same_kind_the_nearest_first(monkeypatch, mark, block):
    monkeypatch.setattr(module, "_ROWS", block)
    found = siblings(base(mark), ["Princeton", "II", "nowhere", "M5", "Princeton"], 2)
    assert found == {"Princeton": ["Yale", "Harvard"], "II": ["III", "XIV"]}


def test_where_there_are_no_words_there_are_no_siblings():
    assert siblings(base("##"), ["Princeton"], 2) == {}
    assert siblings(base(), ["nowhere"], 2) == {}
    assert siblings(base(), [], 2) == {}
    assert siblings(base(dtype=torch.int8), ["Princeton"], 2) == {}


def test_a_token_without_an_embedding_is_none():
    found = siblings(base(rows=6, ĠOxford=100), ["Princeton", "Oxford"], 9)
    assert found == {"Princeton": ["Yale", "Harvard"]}


def test_a_name_gives_way_in_one_word_at_the_least():
    rng = np.random.default_rng(0)
    known = {"Princeton": ["Yale", "Harvard"], "Press": ["Library"]}
    made = {sibling_name("Princeton University Press", known, rng) for _ in range(200)}
    ends = [
        f"{first} University {last}"
        for first in ("Yale", "Harvard")
        for last in ("Press", "Library")
    ]
    assert made == {*ends, "Princeton University Library"}
    assert sibling_name("Zil", known, rng) is None
    assert sibling_name("Zil", {"Zil": []}, rng) is None
