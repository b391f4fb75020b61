"""The command line, and scripts beside the package, called in this process."""

import importlib.util
import io
import sys
from pathlib import Path

import pytest

from corsa import cli

ROOT = Path(__file__).resolve().parents[1]


def call(*words):
    """The command line in this process: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["corsa", *map(str, words)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as done:
            cli.main()
    return done.value.code, out.getvalue(), err.getvalue()


def script(path):
    """A script of this repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
