"""Freed memory goes back to the system, and training asks for it."""

import platform
import re
from pathlib import Path

from corsa import allocator


def resident():
    """What the process holds, in MB."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def test_what_lies_freed_between_what_stays_goes_back():
    assert platform.libc_ver()[0] == "glibc", "elsewhere nothing is promised"
    blocks = [bytearray(b"x" * 100_000) for _ in range(3000)]
    held = resident()
    del blocks[:-1]
    kept = resident()
    assert kept > held - 250, "the C library gave it back by itself: the test shows nothing"
    assert allocator.give_back()
    assert resident() < held - 250
