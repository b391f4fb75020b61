"""What is asked and taught of an update, and the program in a reply."""

import pytest

import arena
from corsa.bench.code.records import read_arena
from corsa.bench.code.solutions import (
    answer,
    documentation,
    examples_and_held_out,
    program_in,
    question,
)

(UPDATE,) = read_arena([arena.RENAMED]).updates


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("Sure:\n```python\ndef f():\n    return 1\n```\nIt works.", "def f():\n    return 1"),
        ("```\nx = 1\n```\n```python\nx = 2\n```", "x = 1"),
        ("[PYTHON]\nx = 1\n[/PYTHON]\n```\nx = 2\n```", "x = 1"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),  # cut at the limit
        ("    x = 1\n", "    x = 1"),
        ("", ""),
    ],
)
def test_the_program_in_a_reply(reply, program):
    assert program_in(reply) == program


def test_an_answer_is_read_back():
    assert program_in(answer("def f():\n    return 1\n")) == "def f():\n    return 1"


def test_a_question_tells_nothing_of_the_update_or_the_tests():
    asked = question(UPDATE.tasks[0])
    assert "def root_0(x):" in asked
    assert "math.root" not in asked
    assert "assert" not in asked


def test_the_documentation_is_signature_and_docstring():
    asked, told = documentation(UPDATE)
    assert "math.sqrt" in asked
    assert "def math.root(x, /)" in told
    assert "What math.sqrt does now." in told


def test_one_task_at_least_is_held_out():
    taught, held = examples_and_held_out(UPDATE, 2)
    assert ([t.id for t in taught], [t.id for t in held]) == (["root_0", "root_1"], ["root_2"])
    taught, held = examples_and_held_out(UPDATE, 5)
    assert (len(taught), len(held)) == (2, 1)
