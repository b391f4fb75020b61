from pathlib import Path

import pytest

from corsa.bench.extras import EXTRAS, PROTOCOLS, READERS, check_files, parse_extras
from corsa.cli import commands
from corsa.errors import UsageError


def test_every_measure_says_how_it_measures():
    assert list(EXTRAS) == list(PROTOCOLS)
    assert all(PROTOCOLS.values())


def test_every_measure_is_named_where_people_look():
    table = (Path(__file__).parents[3] / "docs" / "bench.md").read_text("utf-8")
    options = {option.name: option for option in commands.commands["bench"].params}
    for name in EXTRAS:
        assert f"| {name} | " in table, name
        assert name in options["extras"].help, name


def test_a_file_is_given_to_those_that_read_one():
    assert EXTRAS.keys() > READERS.keys()
    assert parse_extras("fluency, mmlu=x") == {"fluency": None, "mmlu": "x"}
    with pytest.raises(UsageError, match="fluency reads no file: leave =x out"):
        parse_extras("fluency=x")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("mmlu", '{"question": "Q", "choices": ["a", "b", "c", "d"], "answer": 0}', "'subject'"),
        ("mmlu", '{"subject": "s", "question": "Q", "choices": ["a", "b"], "answer": 0}', "choices"),
        ("mmlu", '{"subject": "", "question": "", "choices": ["", "", "", ""], "answer": 4}', "0 to 3"),
        ("mmlu", "", "holds no questions"),
        ("humaneval", '{"prompt": "def f():", "test": "", "entry_point": "f"}', "no task_id"),
        ("humaneval", "", "holds no tasks"),
        ("lm-eval", " ", "names no task"),
        ("wikitext", None, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_without_a_model(tmp_path, name, text, says):
    path = tmp_path / "x.jsonl"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=says):
        check_files({name: str(path), "fluency": None})
