import os
import subprocess

from corsa.bench.origin import commit, hardware


def git(folder, *words):
    names = {
        f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    subprocess.run(
        ["git", "-C", folder, *words], check=True, capture_output=True, env=os.environ | names
    )


def test_the_commit_is_that_of_the_checkout_and_changes_are_told(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1", "utf-8")
    assert commit(package) is None
    git(tmp_path, "init", "-q")
    assert commit(package) is None  # in a checkout, but not part of it: an installed package
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    found = commit(package)
    assert len(found) == 40
    (tmp_path / "notes.txt").write_text("outside the package", "utf-8")
    assert commit(package) == found
    (package / "code.py").write_text("2", "utf-8")
    assert commit(package) == f"{found}+changes"
    (package / "code.py").write_text("1", "utf-8")
    (package / "new.py").write_text("3", "utf-8")
    assert commit(package) == f"{found}+changes"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None


def test_hardware_is_told_without_names_of_machines_and_folders():
    found = hardware("cpu")
    assert found.keys() == {"cpu", "cores", "threads", "gpu"}
    assert found["gpu"] is None
    assert found["cores"] >= 1
    assert os.uname().nodename not in str(found.values())
