"""How programs are asked for, and where they are run: `--code samples=5,tokens=512`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from corsa.bench.code.testing import Pool
from corsa.errors import SandboxError, UsageError
from corsa.sandbox import Sandbox, UnsafeRunner

# CodeUpdateArena's; HumanEval's are taken alike.
TEMPERATURE, TOP_P = 0.8, 0.7


@dataclass(frozen=True)
class CodeOptions:
    """How programs are asked for.

    Attributes:
        samples: programs for each task.
        examples: tasks of an update that are taught, at most; the others are held out.
        held_out: of these, how many are asked at most.
        tokens: where a reply is cut.
        humaneval: tasks of HumanEval, where that is measured.
    """

    samples: int = 5
    examples: int = 2
    held_out: int = 1
    tokens: int = 512
    humaneval: int = 82

    def to_dict(self) -> dict[str, Any]:
        """All by name.

        Returns:
            Plain data.
        """
        return asdict(self)


class Programs(NamedTuple):
    """Where programs are run, and how they are asked for."""

    pool: Pool
    options: CodeOptions


def parse_code(text: str) -> CodeOptions:
    """Read `samples=5,tokens=512`.

    Args:
        text: as typed.

    Returns:
        The options.

    Raises:
        UsageError: if a name is unknown or a value is no number above zero.
    """
    names = [field.name for field in fields(CodeOptions)]
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name not in names or not value.isdecimal() or not int(value):
            raise UsageError(f"--code {part!r}: give NAME=NUMBER, of {', '.join(names)}")
        found[name] = int(value)
    return CodeOptions(**found)


def where(*, unsafe: bool) -> str:
    """Where programs are run, in words to stand beside the numbers.

    Args:
        unsafe: as for `open_pool`.

    Returns:
        The words.
    """
    return "without a sandbox (--unsafe-no-sandbox)" if unsafe else "in the sandbox"


def open_pool(environment: Path, *, unsafe: bool) -> Pool:
    """Where programs are run.

    Args:
        environment: their interpreter and libraries.
        unsafe: run them as oneself, without a sandbox.

    Returns:
        A pool.

    Raises:
        SandboxError: if there can be no sandbox and that was not waived.
    """
    if unsafe:
        return Pool(UnsafeRunner(environment), environment.name)
    try:
        return Pool(Sandbox(environment), environment.name)
    except SandboxError as error:
        raise SandboxError(
            f"{error}. Programs that a model wrote may delete files or call out; --unsafe-no-sandbox "
            "runs them as yourself all the same"
        ) from error
