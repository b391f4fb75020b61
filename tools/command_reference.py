"""Write docs/commands.md from the commands' own help: `make commands`. A test compares the two."""

from pathlib import Path

import click

from corsa.cli import commands
from corsa.config import describe

TARGET = Path(__file__).parents[1] / "docs" / "commands.md"


def reference() -> str:
    """The page: every command's help, and every setting.

    Returns:
        Markdown.
    """
    parts = ["# Commands", "Made by `make commands` from `corsa COMMAND --help`; do not edit."]
    for name, command in [("", commands), *sorted(commands.commands.items())]:
        full = f"corsa {name}".strip()
        context = click.Context(command, info_name=full, terminal_width=100, max_content_width=100)
        context.help_option_names = ["-h", "--help"]
        parts += [f"## {full}", f"```text\n{command.get_help(context)}\n```"]
    parts += ["## Settings", "What `--set` takes, and `Store.update` as keywords."]
    rows = [f"| `{name}` | `{default}` | {meaning} |" for name, default, meaning in describe()]
    parts += ["\n".join(["| setting | default | |", "|---|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(reference(), "utf-8")
