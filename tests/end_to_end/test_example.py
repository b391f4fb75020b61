"""examples/api_update: its tests work here, and its edits are what corsa update takes."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from calling import script
from corsa import read_edits
from corsa.bench.code.solutions import program_in
from corsa.errors import UsageError
from corsa.matching import is_verbatim

EXAMPLE = Path(__file__).parents[2] / "examples" / "api_update"


@pytest.fixture(scope="module")
def check():
    return script("examples/api_update/check.py")


@pytest.mark.sandbox
def test_new_calls_pass_and_old_ones_fail(check):
    folder = Path(tempfile.mkdtemp(prefix="corsa-example-"))
    folder.chmod(0o755)
    pool = check.open_here(folder)
    new = [task["reference"] for task in check.TASKS]
    assert check.run(pool, new) == ["passes"] * len(new)
    old = [program.replace("trapezoid", "trapz") for program in new]
    assert all("trapz" in found for found in check.run(pool, old))
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("installed", "new"), [("2.3.5", False), ("2.4.0rc1", True), ("10.0", True)]
)
def test_a_numpy_in_which_the_old_call_works_is_refused(
    check, monkeypatch, tmp_path, installed, new
):
    monkeypatch.setattr(check, "version", lambda _: installed)
    monkeypatch.setattr(check, "make_environment", lambda *_, **__: tmp_path)
    monkeypatch.setattr(check, "open_pool", lambda *_, **__: "a pool")
    if new:
        assert check.open_here(tmp_path) == "a pool"
    else:
        with pytest.raises(UsageError, match=r"NumPy 2\.3\.5 .* pip install 'numpy>=2\.4'"):
            check.open_here(tmp_path)


def test_the_edits_teach_what_the_tasks_ask(check):
    edits = read_edits(EXAMPLE / "edits.jsonl").edits
    taught = {task["prompt"]: task for task in check.TASKS if task["taught"]}
    assert {edit.prompt for edit in edits} == set(taught)
    for edit in edits:
        assert is_verbatim(edit.target_new)
        assert edit.target_new.replace("trapezoid", "trapz") == edit.target_old
        assert "np.trapezoid" in program_in(edit.target_new)
    held_out = [task for task in check.TASKS if not task["taught"]]
    assert held_out
    assert not {task["prompt"] for task in held_out} & {
        prompt for edit in edits for prompt in (edit.prompt, *edit.paraphrases)
    }


def test_every_file_the_readme_names_is_there():
    text = (EXAMPLE / "README.md").read_text("utf-8")
    for path in EXAMPLE.iterdir():
        if path.suffix in (".jsonl", ".py"):
            assert path.name in text
            assert path.suffix != ".jsonl" or json.loads(path.read_text("utf-8").split("\n")[0])
