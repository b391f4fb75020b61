import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from corsa.bench.upstream import from_hub, rows
from corsa.errors import ModelError, UsageError

ROWS = [{"question": "a", "choices": ["b", "c"]}, {"question": "é\u2028", "choices": []}]


def test_rows_are_read_from_parquet_jsonl_and_json_alike(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text(json.dumps(ROWS), "utf-8")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n \n" for row in ROWS)
    (tmp_path / "x.jsonl").write_text(lines, "utf-8")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("x.parquet", "x.json", "x.jsonl", "x.jsonl.gz"):
        assert list(rows(tmp_path / name)) == ROWS


@pytest.mark.parametrize("name", ["x.parquet", "x.json", "x.jsonl", "x.jsonl.gz"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(UsageError, match=f"{name} does not exist"):
        list(rows(tmp_path / name))
    with pytest.raises(UsageError, match="is a folder: give the file in it"):
        list(rows(tmp_path))
    (tmp_path / name).write_text("{", "utf-8")
    with pytest.raises(UsageError, match=f"{name} cannot be read"):
        list(rows(tmp_path / name))


def test_a_facts_file_of_ones_own_may_be_csv(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text('\ufeffprompt,target_new,paraphrases\nWho?,Ann,"[""Who is it?""]"\n', "utf-8")
    assert list(rows(path)) == [
        {"prompt": "Who?", "target_new": "Ann", "paraphrases": ["Who is it?"]}
    ]
    path.write_text("prompt,target_new\nWho?\n", "utf-8")
    with pytest.raises(UsageError, match=r"facts\.csv:2: has 1 cell, the header 2"):
        list(rows(path))


@pytest.mark.parametrize("text", ["3", "null", '{"prompt": "Who?"}'])
def test_json_that_is_no_array_is_named(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=r"x\.json is no array of records"):
        list(rows(path))


def test_without_a_hub_the_error_says_what_to_give_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"somebody/nothing/x\.parquet is not .* with mmlu=FILE"):
        from_hub("somebody/nothing", "x.parquet", "mmlu=FILE")
