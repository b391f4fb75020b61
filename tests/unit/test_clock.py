import os

import pytest

from corsa import clock as module
from corsa.clock import FILE, Clock


@pytest.fixture
def time(monkeypatch):
    """A clock that is set by hand."""

    class Time:
        now = 0.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Time.now)
    return Time


def test_parts_take_what_lies_between_laps(tmp_path, time):
    clock = Clock(tmp_path)
    with clock.running():
        time.now = 2.0
        clock.lap("plan")
        time.now = 7.0
        clock.lap("train")
        time.now = 8.0
        clock.lap("measure")
    assert clock.seconds == {"plan": 2.0, "train": 5.0, "measure": 1.0}


def test_an_interrupted_try_is_added_to_the_next(tmp_path, time):
    def interrupted():
        with clock.running():
            time.now = 2.0
            clock.lap("plan")
            time.now = 7.0
            raise KeyboardInterrupt

    clock = Clock(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    again = Clock(tmp_path)
    again.take_up()
    assert again.seconds == {"plan": 2.0, "train": 5.0}
    time.now = 100.0  # what lies between two tries belongs to none
    with again.running():
        time.now = 100.5
        again.lap("plan")
        time.now = 104.5
        again.lap("train")
    assert again.seconds == {"plan": 2.5, "train": 9.0}


def test_of_a_killed_try_what_led_to_its_last_checkpoint_counts(tmp_path, time):
    clock = Clock(tmp_path)
    time.now = 2.0
    clock.lap("plan")  # and nothing after it: the process is gone
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state").write_text("", "utf-8")
    begun = (tmp_path / FILE).stat().st_mtime
    os.utime(tmp_path / "a" / "state", (begun + 30, begun + 30))
    again = Clock(tmp_path)
    again.take_up()
    assert again.seconds == {"plan": 2.0, "train": pytest.approx(30.0, abs=0.01)}


def test_without_an_earlier_try_there_is_nothing_to_add(tmp_path):
    clock = Clock(tmp_path)
    clock.take_up()
    assert clock.seconds == {}
    (tmp_path / FILE).write_text("{}", "utf-8")
    clock.take_up()
    assert clock.seconds == {}


def test_what_went_wrong_is_told_even_if_the_seconds_cannot_be_kept(tmp_path):
    def failing():
        with Clock(tmp_path / "pending").running():
            (tmp_path / "pending" / FILE).unlink()
            (tmp_path / "pending").rmdir()
            raise ZeroDivisionError

    (tmp_path / "pending").mkdir()
    with pytest.raises(ZeroDivisionError):
        failing()
