"""Keep a language model's knowledge current: one LoRA adapter, revised round after round.

>>> from corsa import Store
>>> store = Store.open("my-facts")                                  # doctest: +SKIP
>>> store.update([{"prompt": "Who is the CEO of Apple?", "target_new": "Tim Cook"}])  # doctest: +SKIP
>>> store.ask(["Who is the CEO of Apple?"])                         # doctest: +SKIP
"""

from corsa.config import Config
from corsa.edits import Edit, Probe
from corsa.errors import (
    BadEditsError,
    ConfigError,
    CorruptError,
    CorsaError,
    HubError,
    Interrupted,
    LockedError,
    ModelError,
    NotAcceptedError,
    SandboxError,
    StoreError,
    TemplateError,
    TrainingError,
    UsageError,
)
from corsa.readers import read_edits
from corsa.report import write_bench_report, write_report
from corsa.results import Answer, Export, Plan, Update
from corsa.store import Store

__all__ = [
    "Answer",
    "BadEditsError",
    "Config",
    "ConfigError",
    "CorruptError",
    "CorsaError",
    "Edit",
    "Export",
    "HubError",
    "Interrupted",
    "LockedError",
    "ModelError",
    "NotAcceptedError",
    "Plan",
    "Probe",
    "SandboxError",
    "Store",
    "StoreError",
    "TemplateError",
    "TrainingError",
    "Update",
    "UsageError",
    "read_edits",
    "write_bench_report",
    "write_report",
]
