"""Checkpoints: often enough, and never gone on with unless every bit is as it was written."""

import types

import pytest
import torch

from corsa import checkpoints
from corsa.checkpoints import Checkpoints

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}


def at(step):
    return {"step": step, "history": [{"loss": 0.1 + 0.2, "margin": None}]}


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(checkpoints, "time", types.SimpleNamespace(monotonic=lambda: self.now))


# --- When -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lasts", "saved"),
    [
        (1, [59, 118]),
        (25, [2, 4]),
        (40, [1, 2]),  # after two of them it would be more than a minute
        (100, [1, 2]),
    ],
)
def test_an_interruption_costs_a_minute_at_most_or_one_step(tmp_path, monkeypatch, lasts, saved):
    clock, steps = Clock(monkeypatch), []
    kept, since = Checkpoints(tmp_path), 0
    for step in range(1, 200):
        clock.now += lasts
        since += lasts
        assert since <= max(60, lasts)
        kept.maybe_save(lambda step=step: steps.append(step) or (TENSORS, at(step)))
        since = 0 if steps[-1:] == [step] else since
    assert steps[:2] == saved


def test_what_saving_takes_is_no_part_of_a_step(tmp_path, monkeypatch):
    clock, steps = Clock(monkeypatch), []

    def slow(step):
        clock.now += 50
        steps.append(step)
        return TENSORS, at(step)

    kept = Checkpoints(tmp_path)
    for step in range(1, 70):
        clock.now += 1
        kept.maybe_save(lambda step=step: slow(step))
    assert steps == [59]


# --- What -----------------------------------------------------------------------------------------


def test_the_newest_comes_back_and_only_it_is_kept(tmp_path):
    kept = Checkpoints(tmp_path)
    assert kept.load() is None
    for step in (9, 10, 1_000_000):
        kept.save(TENSORS, at(step))
        tensors, position = Checkpoints(tmp_path).load()
        assert position == at(step)
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
        assert len(list(tmp_path.iterdir())) == 1


def test_without_a_folder_nothing_is_kept():
    kept = Checkpoints(None)
    kept.save(TENSORS, at(1))
    assert kept.load() is None
    assert [kept.remember("x", lambda: 1), kept.remember("x", lambda: 2)] == [1, 2]


@pytest.mark.parametrize("name", ["state.safetensors", "position.json"])
def test_a_checkpoint_with_a_flipped_bit_is_removed(tmp_path, name):
    for part in range(12):
        kept = Checkpoints(tmp_path)
        kept.save(TENSORS, at(3))
        path = tmp_path / "step-000003" / name
        broken = bytearray(path.read_bytes())
        broken[part * (len(broken) - 1) // 11] ^= 1 << part % 8
        path.write_bytes(broken)
        assert Checkpoints(tmp_path).load() is None
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["state.safetensors", "position.json"])
def test_a_checkpoint_without_a_file_is_removed(tmp_path, name):
    kept = Checkpoints(tmp_path)
    kept.save(TENSORS, at(3))
    (tmp_path / "step-000003" / name).unlink()
    assert kept.load() is None
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_checkpoint_is_not_taken(tmp_path):
    for name, tensors in (("a", TENSORS), ("b", {"a": torch.zeros(2, 3)})):
        (tmp_path / name).mkdir()
        Checkpoints(tmp_path / name).save(tensors, at(3))
    state = "step-000003/state.safetensors"
    (tmp_path / "a" / state).write_bytes((tmp_path / "b" / state).read_bytes())
    assert Checkpoints(tmp_path / "a").load() is None


def test_behind_a_broken_checkpoint_the_one_before_it_is_found(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)
    kept.save(TENSORS, at(3))
    with monkeypatch.context() as patch:  # killed before the older one was removed
        patch.setattr(checkpoints, "remove_folder", lambda folder: None)
        kept.save(TENSORS, at(4))
    (tmp_path / "step-000004" / "position.json").write_text("{")
    _, position = kept.load()
    assert position == at(3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


# --- Remembered values ----------------------------------------------------------------------------


def test_a_value_is_computed_once(tmp_path):
    computed = []
    for _ in range(3):
        value = Checkpoints(tmp_path).remember("x", lambda: computed.append(1) or [[0.1 + 0.2]])
        assert value == [[0.1 + 0.2]]
    assert len(computed) == 1


def test_a_value_with_a_flipped_bit_is_computed_again(tmp_path):
    kept, path = Checkpoints(tmp_path), tmp_path / "x.json"
    kept.remember("x", lambda: [[0.5, -1.25]])
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        assert kept.remember("x", lambda: [[0.5, -1.25]]) == [[0.5, -1.25]]
        assert path.read_bytes() == whole
