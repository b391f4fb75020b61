"""Running programs: what comes back, how it ends, and what is said where it cannot be done."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from corsa.errors import SandboxError
from corsa.sandbox import Limits, Sandbox, UnsafeRunner, supervision
from corsa.sandbox.environment import make_environment
from corsa.sandbox.filter import _MACHINES, forbidden_calls


@pytest.fixture(params=[pytest.param("sandbox", marks=pytest.mark.sandbox), "unsafe"])
def runner(request, environment):
    return {"sandbox": Sandbox, "unsafe": UnsafeRunner}[request.param](environment)


def test_output_errors_and_status_come_back(runner):
    ended = runner.run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert (ended.why, ended.status, ended.output, ended.errors) == ("exit", 7, b"out\n", b"err\n")


def test_what_is_given_is_read_whole(runner):
    given = b"0123456789" * 300_000
    ended = runner.run("import sys; print(len(sys.stdin.buffer.read()))", given)
    assert ended.output == b"3000000\n"


def test_whoever_does_not_read_is_not_waited_for(runner):
    assert runner.run("print('done')", b"x" * 3_000_000).output == b"done\n"


def test_all_output_is_read_though_the_program_ended(runner):
    assert runner.run("print('x' * 500_000)").output == b"x" * 500_000 + b"\n"


def test_a_program_that_closes_its_output_is_still_waited_for(runner):
    start = time.monotonic()
    ended = runner.run("import os, time; os.close(1); os.close(2); time.sleep(1); os._exit(3)")
    assert ended.status == 3
    assert time.monotonic() - start > 0.9


def test_processes_may_end_while_they_are_looked_at(monkeypatch):
    """Their folder in /proc is listed, and is gone before it is read, or the other way round."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in supervision._descendants(os.getpid())
    child.communicate(b"\n")
    assert supervision._descendants(child.pid) == []

    def vanished(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "iterdir", vanished)
    assert supervision._descendants(os.getpid()) == []


def test_only_what_is_still_ours_is_killed(runner, monkeypatch):
    """Once it has been waited for, its number may be somebody else's."""
    killed = []
    for name in ("kill", "killpg"):
        monkeypatch.setattr(
            supervision.os, name, lambda pid, _: killed.append(Path(f"/proc/{pid}").stat())
        )
    assert runner.run("print('done')").output == b"done\n"
    assert killed


def test_it_can_be_stopped(runner):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert runner.run("import time; time.sleep(60)", stop=stop).why == "stopped"


def test_time_memory_and_output_are_limited(runner):
    assert runner.run("import time; time.sleep(60)", limits=Limits(seconds=1)).why == "time"
    many = "held = bytearray(b'x') * (400 << 20); import time; time.sleep(20)"
    assert runner.run(many, limits=Limits(resident=100 << 20)).why == "memory"
    assert b"MemoryError" in runner.run(many, limits=Limits(memory=200 << 20)).errors
    assert runner.run("while True: print('x' * 1000)", limits=Limits(output=5000)).why == "output"


@pytest.mark.sandbox
def test_a_limit_cannot_be_raised_again(environment):
    raising = """
import resource
try:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("raised")
except ValueError:
    print("refused")
"""
    assert Sandbox(environment).run(raising).output == b"refused\n"


def test_without_bubblewrap_it_is_refused_and_said_how_to_get_it(environment, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
        Sandbox(environment)


def test_a_bubblewrap_that_fails_is_quoted(environment, place, monkeypatch):
    fake = place / "bwrap"
    fake.write_text("#!/usr/bin/python3\nimport sys\nsys.exit('bwrap: no permissions here')\n")
    fake.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: str(fake))
    with pytest.raises(SandboxError, match="no permissions here"):
        Sandbox(environment)


@pytest.mark.sandbox
def test_a_sandbox_whose_files_cannot_be_counted_is_refused(environment, monkeypatch):
    monkeypatch.setattr(supervision, "_children", lambda _: iter(()))
    with pytest.raises(SandboxError, match="cannot be looked at"):
        Sandbox(environment)


def test_a_machine_without_known_calls_has_no_filter():
    assert forbidden_calls("vax") is None
    assert len(forbidden_calls("aarch64")) == len(forbidden_calls("x86_64")) == 8 * (21 + 7)


@pytest.mark.sandbox
def test_every_forbidden_call_is_refused(environment):
    calls = _MACHINES[platform.machine()][1]
    program = """
import ctypes, json, sys
libc, found = ctypes.CDLL(None, use_errno=True), {}
for name, number in json.load(sys.stdin).items():
    ctypes.set_errno(0)
    found[name] = [libc.syscall(number, -1, 0, 0, 0, 0), ctypes.get_errno()]
print(json.dumps(found))
"""
    ended = Sandbox(environment).run(program, json.dumps(calls).encode())
    assert json.loads(ended.output) == {name: [-1, 1] for name in calls}


@pytest.mark.sandbox
def test_the_numbers_of_calls_are_those_of_this_machine():
    """Where the C library knows a call by name, its number is the one of our table."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists() and not os.environ.get("CI"):
        pytest.skip("no kernel headers: apt-get install linux-libc-dev, on x86_64")
    known = dict(
        line.removeprefix("#define __NR_").split()[:2]
        for line in header.read_text().splitlines()
        if line.startswith("#define __NR_")
    )
    calls = _MACHINES["x86_64"][1]
    assert {n: int(known[n]) for n in calls if n in known} == {
        n: calls[n] for n in calls if n in known
    }


# --- The environment ------------------------------------------------------------------------------


def test_an_environment_is_made_once_and_is_open_to_all(place, environment):
    assert make_environment(place / "cache") == environment
    assert all(
        path.stat().st_mode & 0o005 for path in (environment, environment / "bin" / "python")
    )
    listed = [path.name for path in environment.parent.iterdir() if "writing" in path.name]
    assert listed == []


def test_a_package_that_does_not_exist_is_named_and_nothing_is_left(place, monkeypatch):
    def refuse(*_, **__):
        return subprocess.CompletedProcess((), 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(SandboxError, match=r"no-such-thing==1.*No matching distribution"):
        make_environment(place / "other", ["no-such-thing==1"])
    assert [path.suffix for path in (place / "other" / "sandbox").iterdir()] == [".lock"]
    with pytest.raises(SandboxError, match="nowhere is not installed"):
        make_environment(place / "other", taken=["nowhere"])


def test_modules_are_taken_over_as_they_are(place):
    folder = make_environment(place / "taken", taken=["filelock"])
    ended = UnsafeRunner(folder).run("import filelock; print(filelock.__file__)")
    assert ended.output.decode().strip() == str(folder / "packages" / "filelock" / "__init__.py")
    content = json.loads((folder / "content.json").read_text("utf-8"))
    assert content["installed"] == {"filelock": importlib.metadata.version("filelock")}


def test_what_is_imported_is_compiled_already(environment):
    """Nobody inside can write byte code: compiling anew at every start would be most of the time."""
    missing = [
        path
        for path in (environment / "lib").glob("python3*/*.py")
        if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))
    ]
    assert missing == []


@pytest.mark.root
def test_root_makes_it_where_others_may_read(tmp_path, monkeypatch, place):
    from corsa.sandbox import environment as module

    monkeypatch.setattr(module, "_OF_ROOT", place / "of-root")
    assert not tmp_path.parent.stat().st_mode & 0o001
    assert make_environment(tmp_path).parent == place / "of-root"
