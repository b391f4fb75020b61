"""A child process held to its limits from outside, and killed whole."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from corsa.errors import SandboxError
from corsa.sandbox.limits import Ended, Limits, Why

# Seconds between two looks at the memory of all processes, and at their files.
_LOOK = 0.05
_READ = 1 << 16


def supervise(
    command: Sequence[str],
    given: bytes,
    limits: Limits,
    *,
    environment: Mapping[str, str],
    user: int | None = None,
    inherited: Sequence[int] = (),
    folder: str | None = None,
    stop: threading.Event | None = None,
) -> Ended:
    """Run a command until it ends or takes too much; then nothing of it is left.

    Args:
        command: what to run; it writes one byte first and is given one, then its input (`inside.py`).
        given: its standard input.
        limits: what is held from here: time, resident memory, files, output.
        environment: all of its environment.
        user: the uid and gid to take before anything else; `None`: one's own.
        inherited: descriptors.
        folder: whose files are counted, as the first process that the command starts sees it.
        stop: ends it when set.

    Returns:
        How it ended.

    Raises:
        SandboxError: if the folder cannot be looked at.
    """
    start = time.monotonic()
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user, "group": user, "extra_groups": []}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd="/",
        pass_fds=inherited,
        start_new_session=True,
        **identity,
    )
    talk = _Talk(process, given, limits.output)
    why: Why = "exit"
    filled: int | None = None
    try:
        while talk.going():
            talk.exchange(_LOOK)
            if folder is not None and filled is None and talk.greeted:
                filled = _open_inside(process.pid, folder)
            if reason := _too_much(process.pid, filled, talk, limits, start, stop):
                why = reason
                break
    finally:
        _kill(process)
        talk.finish()
        if filled is not None:
            os.close(filled)
    return Ended(
        why,
        _as_in_a_shell(process.returncode),
        bytes(talk.read[0]),
        bytes(talk.read[1]),
        time.monotonic() - start,
    )


def _too_much(
    pid: int,
    folder: int | None,
    talk: _Talk,
    limits: Limits,
    start: float,
    stop: threading.Event | None,
) -> Why | None:
    if stop is not None and stop.is_set():
        return "stopped"
    if time.monotonic() - start > limits.seconds:
        return "time"
    if talk.overflowing:
        return "output"
    if _resident(pid) > limits.resident or (folder is not None and _files(folder) > limits.files):
        return "memory"
    return None


def _open_inside(pid: int, folder: str) -> int:
    """A folder of a sandbox that greeted: it was not answered yet, so nobody untrusted is there."""
    try:
        (first,) = _children(pid)
        return os.open(f"/proc/{first}/root{folder}", os.O_PATH | os.O_DIRECTORY)
    except (OSError, ValueError) as error:
        raise SandboxError(f"the sandbox's folder cannot be looked at: {error}") from None


def _files(folder: int) -> int:
    """How many are in a file system in memory, counted as the kernel does: every name of one."""
    seen = os.statvfs(folder)
    return seen.f_files - seen.f_ffree


class _Talk:
    """Standard input is given, output and errors are read, all at once and never more than allowed."""

    def __init__(self, process: subprocess.Popen[bytes], given: bytes, most: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.read = (bytearray(), bytearray())
        self.overflowing = self.greeted = False
        self._given, self._most = memoryview(b"!" + given), most
        self._streams: tuple[IO[bytes], ...] = (process.stdin, process.stdout, process.stderr)
        self._selector = selectors.DefaultSelector()
        for stream in self._streams:
            os.set_blocking(stream.fileno(), False)
        for stream in self._streams[1:]:
            self._selector.register(stream, selectors.EVENT_READ)

    def going(self) -> bool:
        """It runs: whoever closed its output may still be at work."""
        # Not waited for until all are killed: its number, and its group's, stay its own.
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, ended) is None

    def exchange(self, seconds: float) -> None:
        """Whatever can be written and read within some time."""
        if not self._selector.get_map():
            time.sleep(seconds / 10)
            return
        for key, _ in self._selector.select(seconds):
            place = self._streams.index(key.fileobj)
            if place == 0:
                self._write()
            else:
                self._read(place)

    def _write(self) -> None:
        stream = self._streams[0]
        try:
            written = os.write(stream.fileno(), self._given[:_READ]) if self._given else 0
        except BrokenPipeError:
            written, self._given = 0, memoryview(b"")
        self._given = self._given[written:]
        if not self._given:
            self._selector.unregister(stream)
            stream.close()

    def _read(self, place: int) -> None:
        stream, read = self._streams[place], self.read[place - 1]
        try:
            found = os.read(stream.fileno(), _READ)
        except BlockingIOError:
            return
        if not found:
            self._selector.unregister(stream)
        if place == 1 and found and not self.greeted:
            self.greeted, found = True, found[1:]
            self._selector.register(self._streams[0], selectors.EVENT_WRITE)
        read += found[: self._most - len(read)]
        self.overflowing |= len(found) > 0 and len(read) >= self._most

    def finish(self) -> None:
        """What was written before the end is read; nobody is left who could write more."""
        while self._selector.get_map() and not self.overflowing:
            before = sum(map(len, self.read)), len(self._selector.get_map())
            self.exchange(0)
            if before == (sum(map(len, self.read)), len(self._selector.get_map())):
                break
        self._selector.close()
        for stream in self._streams:
            if not stream.closed:
                stream.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that descends from it.

    In a sandbox the first kill is enough: with bubblewrap its PID namespace dies. Without one a program
    that made itself a daemon before it was looked at gets away; that is one reason for the sandbox.
    """
    below = _descendants(process.pid)
    for pid in (process.pid, *below):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Being killed takes the kernel a moment: whoever asks afterwards must find nobody.
    until = time.monotonic() + 5
    while any(_alive(pid) for pid in below) and time.monotonic() < until:
        time.sleep(0.002)


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def _descendants(pid: int) -> list[int]:
    """All processes below one, as the kernel knows them."""
    found, ahead = [], [pid]
    while ahead:
        own = list(_children(ahead.pop()))
        found += own
        ahead += own
    return found


def _children(pid: int) -> Iterator[int]:
    """Those of one process; it may end at any moment while it is looked at."""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (thread / "children").read_text("ascii").split())
    except OSError:
        return


def _resident(pid: int) -> int:
    """Bytes that a process and all below it hold that are theirs alone or shared among them."""
    total = 0
    for each in (pid, *_descendants(pid)):
        try:
            lines = Path(f"/proc/{each}/status").read_text("utf-8", errors="replace").split("\n")
        except OSError:
            continue
        sizes = (line.split() for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
        total += sum(int(size[1]) for size in sizes) << 10
    return total


def _as_in_a_shell(code: int) -> int:
    return code if code >= 0 else 128 - code
