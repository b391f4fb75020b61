"""What is loaded is what was named: converted models are checked in full."""

import os
from pathlib import Path

import pytest

from corsa import sources
from corsa.errors import ModelError
from corsa.sources import ModelSource, conversion_is_whole, full_sha256, resolve
from fakes import save_tiny


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    """A cache and a home of its own; converting a GGUF file gives the tiny model."""
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "model.gguf").write_bytes(b"GGUF and more")
    monkeypatch.setattr(
        "corsa.gguf_conversion.write_safetensors", lambda gguf, folder: save_tiny(folder)
    )


def flip_unnoticed(path):
    """What a bad disk does: one bit, the size and the time as they were."""
    stat = path.stat()
    broken = bytearray(path.read_bytes())
    broken[-1] ^= 1
    path.write_bytes(broken)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("kind", ["gguf", "embedded"])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_conversion_is_found_though_size_and_time_are_the_same(kind, name):
    for _ in range(2):  # the second time its hashes are remembered
        found = resolve("~/model.gguf")
    source = ModelSource(found.name, kind, found.folder, None, found.sha256)
    assert conversion_is_whole(source)
    flip_unnoticed(source.folder / name)
    assert resolve("~/model.gguf") == found  # remembered hashes say nothing
    assert not conversion_is_whole(source)


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", "{}", "null", "\ud800"])
def test_a_conversion_whose_manifest_is_broken_is_not_whole_and_is_made_again(manifest):
    source = resolve("~/model.gguf")
    path = source.folder / "corsa.json"
    path.unlink()
    if manifest is not None:
        path.write_bytes(manifest.encode("utf-8", "surrogatepass"))
    assert not conversion_is_whole(source)
    assert conversion_is_whole(resolve("~/model.gguf"))


def test_where_nothing_was_converted_the_conversion_is_whole(tmp_path):
    save_tiny(tmp_path / "model")
    assert conversion_is_whole(resolve(str(tmp_path / "model")))
    hub = ModelSource("somebody/tiny", "hub", tmp_path / "model", "abc", "0")
    assert conversion_is_whole(hub)


def test_a_gguf_file_in_the_home_folder_is_hashed_in_full():
    source = resolve("~/model.gguf")
    assert full_sha256(source) == source.sha256
    flip_unnoticed(Path("~/model.gguf").expanduser())
    assert full_sha256(source) != source.sha256


def test_a_folder_is_hashed_in_full(tmp_path):
    save_tiny(tmp_path / "model")
    source = resolve(str(tmp_path / "model"))
    assert full_sha256(source) == source.sha256
    flip_unnoticed(tmp_path / "model" / "model.safetensors")
    assert resolve(str(tmp_path / "model")) == source
    assert full_sha256(source) != source.sha256


def test_a_folder_with_only_pickles_says_so_and_one_without_weights_says_both(tmp_path):
    with pytest.raises(ModelError, match=r"no \.safetensors file.*if it has only pickled.*FOLDER"):
        resolve(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"holds only pickled weights.*FOLDER"):
        resolve(str(tmp_path))


def test_the_hubs_pickles_are_never_asked_for():
    assert not [p for p in sources._HUB_FILES if p.endswith((".bin", ".pt", ".pth", ".ckpt"))]
