"""What a program may use, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a program with all it starts may use.

    Attributes:
        seconds: of wall time, for the whole of it.
        processor: seconds of a processor, for each process.
        memory: bytes of address space of each process; the kernel refuses more.
        resident: bytes that all its processes hold together. Nobody who is not root can have the kernel
            bind this without a cgroup, so it is looked at twenty times a second.
        processes: processes and threads at a time.
        disk: bytes of its only writable folder, which is in memory; no file can be larger.
        files: files, folders and links in it. Each takes memory of the kernel's, an empty one too; they
            are looked at like `resident`, and not counted without a sandbox.
        output: bytes it may write to standard output, and to standard error.
    """

    seconds: float = 60.0
    processor: int = 60
    memory: int = 4096 * _MIB
    resident: int = 1536 * _MIB
    processes: int = 32
    disk: int = 64 * _MIB
    files: int = 10_000
    output: int = _MIB

    def for_each_process(self) -> dict[str, int]:
        """The part that the kernel binds for every process by itself.

        Returns:
            Names of `resource` and their limits.
        """
        return {
            "RLIMIT_AS": self.memory,
            "RLIMIT_CPU": self.processor,
            "RLIMIT_FSIZE": self.disk,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_NOFILE": 256,
            "RLIMIT_CORE": 0,
            "RLIMIT_MSGQUEUE": 0,
        }


Why = Literal["exit", "time", "memory", "output", "stopped"]


class Ended(NamedTuple):
    """A program after its end; none of its processes is left.

    Attributes:
        why: it ended by itself ("exit"), or was killed for what it used.
        status: as a shell says it; 128 + the signal where one ended it.
        output: standard output, cut at the limit.
        errors: standard error, cut at the limit.
        seconds: of wall time.
    """

    why: Why
    status: int
    output: bytes
    errors: bytes
    seconds: float
