"""HumanEval: the program in a reply, and what is remembered of the base model."""

import json
from types import SimpleNamespace

import pytest

from corsa.answerers import Reply
from corsa.bench.code.humaneval import _program, humaneval
from corsa.bench.code.options import CodeOptions, Programs
from corsa.bench.code.testing import Pool
from corsa.bench.finished import Finished
from corsa.config import Config
from corsa.progress import Silent
from corsa.sandbox import Ended

ROW = {
    "task_id": "HumanEval/0",
    "prompt": 'import math\n\n\ndef add(x):\n    """Add one."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
}


def passes(text):
    try:
        exec(compile(text, "program", "exec"), {})
    except (SyntaxError, NameError, AssertionError, ValueError):
        return False
    return True


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("def add(x):\n    return x + 1", True),
        ("    return x + 1", True),
        ("    y = x + 1\n    return y", True),
        # What is left of a body when its reply was stripped.
        ("return x + 1", True),
        ("y = x + 1\n    return y", True),
        ("if x:\n        return x + 1\n    return 1", True),
        ("return x + 1\n\n\ndef other(x):\n    return x", True),
        ("return x", False),
        ("y = x + 1\n      return y", False),
        ("Add one to it.", False),
        ("return '\0'", False),
        ("", False),
    ],
)
def test_a_function_or_its_body_is_a_program(written, right):
    assert passes(_program(ROW, written)) is right


class Writer:
    """Always writes the same, and knows how often it was asked."""

    def __init__(self, text):
        self.text, self.asked = text, 0

    def samples(self, prompts, count, *_):
        self.asked += 1
        return [[Reply(self.text, ())] * count for _ in prompts]


class Here:
    """Runs programs in this process; the first ones end as they are told."""

    def __init__(self, *endings):
        self.endings = list(endings)

    def run(self, program, given, limits, stop):
        if self.endings:
            return self.endings.pop(0)
        (text,) = json.loads(given)["groups"]["new"]
        lines = [["ready", "passed", 0], ["new", "passed" if passes(text) else "no", 0.1]]
        return Ended("exit", 0, "\n".join(map(json.dumps, lines)).encode(), b"", 0.2)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path / "cache"))
    base = SimpleNamespace(identity=lambda: ["a model"])

    def measure(before, runner, row=ROW):
        path = tmp_path / "HumanEval.jsonl"
        path.write_text(json.dumps(row) + "\n", "utf-8")
        programs = Programs(Pool(runner), CodeOptions(samples=1))
        rest = ([], Config(), Silent(), path, programs)
        return humaneval(Finished(base, before, Writer("return 0"), *rest))["humaneval_pass@1_base"]

    return measure


def test_a_base_program_that_was_killed_once_may_pass_the_next_time(measured):
    writer = Writer("return x + 1")
    assert measured(writer, Here(Ended("memory", 137, b"", b"", 1.0))) == 0
    assert measured(writer, Here()) == 1
    assert writer.asked == 1  # what it wrote is what is remembered


def test_other_tests_of_the_same_prompt_are_run(measured):
    writer = Writer("return x + 1")
    assert measured(writer, Here()) == 1
    assert measured(writer, Here(), ROW | {"test": ROW["test"].replace("2", "3")}) == 0
