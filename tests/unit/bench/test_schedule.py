from corsa.bench import schedule
from corsa.bench.schedule import Schedule


class Told:
    def __init__(self):
        self.tasks, self.lines, self.steps = [], [], 0

    def begin(self, task, total=None):
        self.tasks.append((task, total))

    def advance(self, count=1, *, total=None, note=""):
        self.steps += count

    def say(self, text):
        self.lines.append(text)


def clock(monkeypatch, *times):
    monkeypatch.setattr(schedule.time, "monotonic", iter(times).__next__)


def test_a_rounds_tasks_are_told_with_how_far_all_is(monkeypatch):
    told = Told()
    plan = Schedule(told, {"corsa": 2, "lora": 2}, {})
    clock(monkeypatch, 0, 60, 60)
    with plan.round("corsa", "corsa, seed 0, round 1"):
        plan.begin("training", 5)
        plan.advance(2)
    with plan.round("lora", "lora, seed 0, round 1"):
        plan.begin("training")
        clock(monkeypatch, 90)
    plan.begin("writing")
    plan.say("done")
    assert told.tasks == [
        ("corsa, seed 0, round 1 (0 of 4 rounds done) training", 5),
        # one corsa round at 60 s is left, and two of lora, of which nothing is known: 60 s each
        ("lora, seed 0, round 1 (1 of 4 rounds done, about 3 min left) training", None),
        ("writing", None),
    ]
    assert (told.lines, told.steps) == (["done"], 2)


def test_time_left_is_estimated_from_finished_rounds_of_the_same_method():
    plan = Schedule(Told(), {"corsa": 3, "lora": 2}, {"corsa": [10, 30], "lora": [5]})
    assert plan.seconds_left() == 3 * 20 + 2 * 5


def test_rounds_that_are_there_already_are_not_waited_for():
    plan = Schedule(Told(), {"corsa": 3}, {"corsa": [10]})
    plan.skip("corsa", 2)
    assert plan.seconds_left() == 10


def test_what_is_measured_at_the_end_of_runs_is_waited_for_too(monkeypatch):
    told = Told()
    plan = Schedule(told, {"corsa": 4}, {"corsa": [10]})
    with plan.run("corsa", 2):
        plan.skip("corsa", 2)
        clock(monkeypatch, 0, 60)
        with plan.end("corsa", "corsa, seed 0"):
            plan.begin("measuring")
    assert told.tasks == [("corsa, seed 0 (0 of 2 rounds done, about 20 s left) measuring", None)]
    plan = Schedule(told, {"corsa": 2, "lora": 2}, {"corsa": [10]})
    with plan.run("corsa", 2):
        clock(monkeypatch, 0, 10, 10, 20, 20, 80)
        for _ in range(2):
            with plan.round("corsa", "a round"):
                pass
        with plan.end("corsa", "corsa, seed 0"):
            pass
        assert plan.seconds_left() == 2 * 10 + 60


def test_nothing_is_guessed_before_the_first_round_is_finished():
    assert Schedule(Told(), {"corsa": 3}, {}).seconds_left() is None


def test_a_run_that_failed_is_not_waited_for(monkeypatch):
    told = Told()
    plan = Schedule(told, {"corsa": 4}, {"corsa": [10]})
    with plan.run("corsa", 2):
        try:
            with plan.round("corsa", "corsa, seed 0, round 1"):
                raise OSError
        except OSError:
            plan.say("failed")
    assert plan.seconds_left() == 2 * 10
    plan.begin("drawing")
    assert told.tasks == [("drawing", None)]
