"""The tutorial and the notebook, run from top to bottom on the embedded model as a reader would."""

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """An empty folder, and a shell that finds this `corsa`."""
    tools = tmp_path / "bin"
    tools.mkdir()
    corsa = tools / "corsa"
    corsa.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "from corsa.cli import main; main()" "$@"\n'
    )
    corsa.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    source = str(ROOT / "src")
    monkeypatch.setenv("PYTHONPATH", source)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(language, text):
    import subprocess

    words = ["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(1800)
def test_the_tutorial_runs_as_it_stands(reader):
    blocks = BLOCK.findall((ROOT / "docs/tutorial.md").read_text("utf-8"))
    said = {text: run(language, text) for language, text in blocks}
    assert len(said) >= 9
    assert "Gitega" in next(out for text, out in said.items() if text.startswith("corsa ask"))
    assert (reader / "my-facts.html").read_text("utf-8").count("In other words") == 1
    from_python = next(out for text, out in said.items() if "numbers = " in text)
    assert from_python.splitlines()[-1].startswith("1.0 [[1.0]")


@pytest.mark.timeout(1800)
def test_the_notebook_runs_as_it_stands(reader):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1500, kernel_name="python3").execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("Broadcom" in str(output) for output in outputs)
