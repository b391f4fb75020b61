import json
import os

import pytest

from corsa import files
from corsa.errors import CorruptError
from corsa.files import (
    canonical_json,
    json_lines,
    remove_folder,
    seal,
    sha256_content,
    sha256_file,
    sha256_text,
    unseal,
    write_atomically,
    write_folder,
)


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical_json({"b": 1, "a": [2, {"d": 3, "c": 4}]}) == canonical_json(
        {"a": [2, {"c": 4, "d": 3}], "b": 1}
    )
    assert canonical_json({"é": "\u2028"}) == '{\n  "é": "\u2028"\n}\n'


def test_numbers_that_are_none_are_refused():
    for write in (canonical_json, lambda value: json_lines([{"x": value}])):
        with pytest.raises(ValueError, match="JSON compliant"):
            write(float("nan"))


def test_json_lines_hold_one_record_each_whatever_is_in_it():
    records = [{"b": "one\ntwo\r\n", "a": "\u2028\u2029\x85\x0b\x0c"}, {"a": "ü"}]
    text = json_lines(records)
    assert text.count("\n") == 2
    assert [json.loads(line) for line in text.split("\n")[:-1]] == records
    assert text.startswith('{"b"')


def test_hashes_are_those_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes("ä".encode())
    assert sha256_file(tmp_path / "f") == sha256_text("ä")
    assert sha256_text("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_file_is_replaced_byte_for_byte(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, "one\r\ntwo\n")
    assert path.read_bytes() == b"one\r\ntwo\n"
    write_atomically(path, "three")
    assert path.read_bytes() == b"three"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, call, error):
    path = tmp_path / "f"
    path.write_text("old")

    def fail(*_args):
        raise error

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(files.Path, "replace", fail)
        with pytest.raises(type(error)):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_sealed_comes_back(tmp_path):
    path, content = tmp_path / "f", {"b": [1, 0.1, None], "a": "ü\u2028\r\n"}
    write_atomically(path, seal(content))
    assert unseal(path) == content | {"sha256": sha256_content(content)}
    assert seal(unseal(path)) == seal(content)


def test_any_flipped_bit_breaks_the_seal(tmp_path):
    path = tmp_path / "f"
    whole = seal({"a": [1, 2.5, None, True], "b": {"c": "ü"}}).encode()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(CorruptError, match="is not what was written"):
                unseal(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "{}", '{\n  "sha256": "x"\n}\n'])
def test_what_was_never_sealed_is_refused(tmp_path, text):
    (tmp_path / "f").write_text(text)
    with pytest.raises(CorruptError, match="is not what was written"):
        unseal(tmp_path / "f")
    with pytest.raises(CorruptError, match="is missing"):
        unseal(tmp_path / "g")


def test_other_line_ends_break_the_seal(tmp_path):
    (tmp_path / "f").write_bytes(seal({"a": 1}).replace("\n", "\r\n").encode())
    with pytest.raises(CorruptError):
        unseal(tmp_path / "f")


def fill(folder):
    (folder / "a").write_text("1")
    (folder / "sub").mkdir()
    (folder / "sub" / "b").write_text("2")


def test_a_folder_appears_whole(tmp_path):
    write_folder(tmp_path / "made", fill)
    assert sorted(p.name for p in (tmp_path / "made").rglob("*")) == ["a", "b", "sub"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["write", "sync_file", "sync_folder"])
def test_a_failing_folder_does_not_appear_and_leaves_no_litter(tmp_path, monkeypatch, call, error):
    def fail(*_args):
        raise error

    def write(folder):
        fill(folder)
        if call == "write":
            fail()

    if call != "write":
        monkeypatch.setattr(files, call, fail)
    with pytest.raises(type(error)):
        write_folder(tmp_path / "made", write)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    (tmp_path / ".made.writing").mkdir()
    (tmp_path / ".made.writing" / "half").write_text("x")
    write_folder(tmp_path / "made", fill)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    assert not (tmp_path / "made" / "half").exists()


def test_an_existing_folder_is_not_replaced(tmp_path):
    write_folder(tmp_path / "made", fill)
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "made", lambda folder: (folder / "other").touch())
    assert not (tmp_path / "made" / "other").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_removing_what_is_not_there_is_fine(tmp_path):
    remove_folder(tmp_path / "none")
    (tmp_path / "some").mkdir()
    remove_folder(tmp_path / "some")
    assert not (tmp_path / "some").exists()
