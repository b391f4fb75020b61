"""Everything corsa raises on purpose.

::

    CorsaError              something expected went wrong; the text says what to do
    ├── UsageError          the call cannot be meant like this                 exit 2  ValueError
    │   ├── BadEditsError   a facts file or a list of edits is faulty          exit 2
    │   └── ConfigError     a setting is unknown, out of range or contradicts  exit 2
    ├── ModelError          a model cannot be found, loaded or edited          exit 1  RuntimeError
    │   └── TemplateError   its chat template leaves no answer to train on     exit 1
    ├── StoreError          a store is missing, broken or of another model     exit 1  RuntimeError
    │   ├── LockedError     somebody else is writing to it                     exit 1
    │   └── CorruptError    a file is not what was written                     exit 1
    ├── HubError            the Hugging Face Hub cannot be reached or refuses  exit 1  RuntimeError
    ├── TrainingError       a round could not be finished                      exit 1  RuntimeError
    ├── SandboxError        programs of others cannot be run safely here       exit 1  RuntimeError
    ├── NotAcceptedError    a round misses --accept; it is kept, the head stays  exit 1
    └── Interrupted         Ctrl-C, after everything was left consistent       exit 1

A message says what went wrong, the value that was found, and what to do about it. The command line
catches `CorsaError` in exactly one place and prints the message as one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class CorsaError(Exception):
    """Root of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(CorsaError, ValueError):
    """The call cannot be meant like this: an argument is missing, wrong or contradicts another."""

    exit_code = 2


class Fault(NamedTuple):
    """One thing that is wrong with a facts file."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class BadEditsError(UsageError):
    """A facts file or a list of edits is faulty; it was refused whole.

    Attributes:
        faults: every fault found, in the order of the file.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        listed = "\n".join(f"  {fault}" for fault in self.faults)
        super().__init__(f"{count}, nothing was written:\n{listed}")


class ConfigError(UsageError):
    """A setting is unknown, out of range, or contradicts another."""


class ModelError(CorsaError, RuntimeError):
    """A model cannot be found, loaded or edited."""


class TemplateError(ModelError):
    """The model's chat template leaves no answer that could be trained on."""


class StoreError(CorsaError, RuntimeError):
    """A store is missing, unreadable or belongs to another model."""


class LockedError(StoreError):
    """Another process is writing to the store."""


class CorruptError(StoreError):
    """A file of the store is not what was written."""


class HubError(CorsaError, RuntimeError):
    """The Hugging Face Hub cannot be reached, or refuses what is uploaded."""


class TrainingError(CorsaError, RuntimeError):
    """A round could not be finished; earlier rounds are untouched."""


class SandboxError(CorsaError, RuntimeError):
    """Programs of others cannot be run here without harm, or not at all."""


class NotAcceptedError(CorsaError):
    """A round was made and kept, but it misses what was asked; the head stays where it was."""


class Interrupted(CorsaError):  # noqa: N818  (a message, not a fault)
    """Ctrl-C was pressed; everything was left consistent."""
