"""The command line called in this process."""

import io
import sys

import pytest

from corsa import cli


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
