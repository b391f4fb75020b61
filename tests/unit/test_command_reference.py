"""docs/commands.md is what the commands say of themselves."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_command_reference_is_up_to_date():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools/command_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.TARGET.read_text("utf-8")
    assert written == module.reference(), "docs/commands.md is stale: run 'make commands'"
