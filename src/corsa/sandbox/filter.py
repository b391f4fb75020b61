"""System calls that a program in the sandbox has no business with, as a filter for the kernel.

Most of them are ways to hold memory that no limit of ours counts (anonymous files, segments of System
V, buffers of sockets, which lead nowhere anyway), or to touch other processes; the others are where the
kernel's own faults tend to be. Each gives EPERM.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping

# Audit architecture, and numbers of system calls (Linux: asm/unistd_64.h and asm-generic/unistd.h).
_MACHINES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "shmget": 29,
            "socket": 41,
            "socketpair": 53,
            "semget": 64,
            "msgget": 68,
            "ptrace": 101,
            "mount": 165,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "unshare": 272,
            "perf_event_open": 298,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "memfd_create": 319,
            "bpf": 321,
            "userfaultfd": 323,
            "io_uring_setup": 425,
            "pidfd_getfd": 438,
            "memfd_secret": 447,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "mount": 40,
            "unshare": 97,
            "ptrace": 117,
            "msgget": 186,
            "semget": 190,
            "shmget": 194,
            "socket": 198,
            "socketpair": 199,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "perf_event_open": 241,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
            "io_uring_setup": 425,
            "pidfd_getfd": 438,
            "memfd_secret": 447,
        },
    ),
}
# x86_64 has a second table of numbers (x32) from here on.
_X32 = 0x40000000

# Classic BPF: load a word, jump if equal, jump if greater or equal, return.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4  # where they are in struct seccomp_data


def forbidden_calls(machine: str | None = None) -> bytes | None:
    """The filter as bubblewrap reads it (`--seccomp`): an array of struct sock_filter.

    Args:
        machine: as `platform.machine()` says; `None`: this one.

    Returns:
        The program; `None` for a machine whose numbers are not known here.
    """
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, calls = known
    numbers = sorted(calls.values())
    # Every jump goes to the last instruction but one or to the last: forward distances.
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, len(numbers) + 1, 0, _X32),
    ]
    for place, number in enumerate(numbers):
        lines.append((_EQUAL, len(numbers) - place, 0, number))
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
