"""Runs inside the sandbox: every program in a process of its own, with what it imports loaded once.

Handed over as text, never imported here. Reads one JSON document (`testing.py`) and writes one line of JSON
for every program as soon as it has ended. A program passes by coming to its end: whoever leaves early by
`os._exit` or `sys.exit` did not. A program shares its process with its tests, so one that wants to be
counted as passing can be; it can touch no other's result.
"""

# ruff: noqa
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback

PASSED = b"passed"
TOO_LONG = "timed out"
job = json.loads(sys.stdin.buffer.read())
# Nobody of the same user may trace this process or open its files (PR_SET_DUMPABLE).
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
for name in job["imports"]:
    try:
        importlib.import_module(name)
    except Exception:  # the programs that need it will say so
        pass


def run(text: str, report: int) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    try:
        exec(compile(text, "solution", "exec"), {"__name__": "__main__"})
        said = PASSED
    except BaseException as error:
        place = [
            e.lineno for e in traceback.extract_tb(error.__traceback__) if e.filename == "solution"
        ]
        where = f" (line {place[-1]})" if place else ""
        said = f"{type(error).__name__}: {str(error)[:300]}{where}".encode(errors="replace")
    os.write(report, said)
    os._exit(0)


def used() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def check(text: str) -> str:
    before = used()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        run(text, write)
    os.close(write)
    ready, _, _ = select.select([read], [], [], job["seconds"])
    said = os.read(read, 4096) if ready else TOO_LONG.encode()
    os.close(read)
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            pass
    _, status = os.waitpid(pid, 0)
    # The kernel kills what used up its time of a processor.
    used_up = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU)
    if not said and used_up and used() - before >= resource.getrlimit(resource.RLIMIT_CPU)[0] - 1:
        return TOO_LONG
    return said.decode(errors="replace") or f"ended early (status {status})"


def tell(group: str, result: str, seconds: float) -> None:
    print(json.dumps([group, result, seconds]), flush=True)


tell("ready", "passed", 0)
for group, texts in job["groups"].items():
    for text in texts:
        start = time.monotonic()
        result = check(text)
        tell(group, result, time.monotonic() - start)
        if result == TOO_LONG or (result != "passed" and group in job["until_failure"]):
            break
