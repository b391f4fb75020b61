"""docs/commands.md is what the commands say of themselves."""

from calling import script


def test_the_command_reference_is_up_to_date():
    tool = script("tools/command_reference.py")
    written = tool.TARGET.read_text("utf-8")
    assert written == tool.reference(), "docs/commands.md is stale: run 'make commands'"
