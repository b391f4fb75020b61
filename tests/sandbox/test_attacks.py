"""Programs that mean harm. Each is first let do its (bounded) harm outside, then held by the sandbox."""

import json
import signal
import socket
import time
from pathlib import Path

import pytest

from corsa.bench.code import testing

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(180)]

MIB = 1 << 20
HARNESS = Path(testing.__file__).with_name("harness.py").read_text("utf-8")


def told(ended):
    return json.loads(ended.output.decode().strip().split("\n")[-1])


FORKS = """
import json, os, signal, time
children = []
try:
    for _ in range(150):
        pid = os.fork()
        if not pid:
            time.sleep(30)
            os._exit(0)
        children.append(pid)
except OSError:
    pass
print(json.dumps(len(children)))
for child in children:
    os.kill(child, signal.SIGKILL)
"""


def test_a_fork_bomb_gets_no_more_processes_than_allowed(somebody):
    assert told(somebody.outside(FORKS)) == 150
    assert 0 < told(somebody.inside(FORKS, processes=20)) < 20
    assert somebody.nobody_left()


THREADS = """
import json, threading, time
count = 0
try:
    for _ in range(150):
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(json.dumps(count), flush=True)
"""


def test_threads_count_as_processes(somebody):
    assert told(somebody.outside(THREADS)) == 150
    assert told(somebody.inside(THREADS, processes=20)) < 20


MEMORY = """
import json
held = []
try:
    for _ in range(60):
        held.append(bytearray(b"x") * (10 << 20))
except MemoryError:
    pass
print(json.dumps(len(held) * 10))
"""


def test_a_memory_bomb_gets_no_more_than_allowed(somebody):
    assert told(somebody.outside(MEMORY)) == 600
    assert told(somebody.inside(MEMORY, memory=200 * MIB)) < 200


SHARED_OUT = """
import json, os, time
for _ in range(5):
    if os.fork() == 0:
        held = bytearray(b"x") * (60 << 20)
        time.sleep(2)
        os._exit(0)
ends = [os.wait()[1] for _ in range(5)]
print(json.dumps(ends))
"""


def test_processes_that_together_hold_too_much_are_killed(somebody):
    assert told(somebody.outside(SHARED_OUT)) == [0] * 5
    ended = somebody.inside(SHARED_OUT, memory=200 * MIB, resident=150 * MIB)
    assert (ended.why, ended.output) == ("memory", b"")
    assert somebody.nobody_left()


HIDDEN = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
got = []
try:
    os.close(os.memfd_create("held"))
    got.append("anonymous file")
except OSError:
    pass
segment = libc.shmget(0, 1 << 20, 0o1600)
if segment >= 0:
    libc.shmctl(segment, 0, None)
    got.append("segment")
if libc.unshare(0x10000000) == 0:
    got.append("user namespace")
print(json.dumps(got))
"""


def test_memory_that_no_limit_counts_and_namespaces_of_its_own_are_refused(somebody):
    assert told(somebody.outside(HIDDEN)) == ["anonymous file", "segment", "user namespace"]
    assert told(somebody.inside(HIDDEN)) == []


BUFFERS = """
import json, socket
held, sent = [], 0
try:
    for _ in range(20):
        held += socket.socketpair()
        held[-1].setblocking(False)
        try:
            while True:
                sent += held[-1].send(bytes(1 << 14))
        except BlockingIOError:
            pass
except PermissionError:
    pass
print(json.dumps(sent))
"""


def test_sockets_hold_nothing(somebody):
    """What is sent and not read is the kernel's to keep: up to 8 MiB a socket, on some machines."""
    assert told(somebody.outside(BUFFERS)) > MIB
    assert told(somebody.inside(BUFFERS)) == 0


OUTPUT = """
import sys
for _ in range(64):
    sys.stdout.write("x" * (1 << 20))
"""


def test_endless_output_is_cut(somebody):
    assert len(somebody.outside(OUTPUT).output) == 64 * MIB
    ended = somebody.inside(OUTPUT, output=MIB)
    assert (ended.why, len(ended.output)) == ("output", MIB)
    assert somebody.nobody_left()


READING = """
import glob, json, os, sys
home = json.load(sys.stdin)
found = []
try:
    found.append(open(home + "/secret.txt").read())
except OSError:
    pass
texts = [str(dict(os.environ))]
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        texts.append(open(path, "rb").read().decode(errors="replace"))
    except OSError:
        pass
if any("in the environment" in text for text in texts):
    found.append("environment")
places = ("/root", "/home", "/etc/passwd", "/etc/shadow", "/var", "/usr/bin")
found += [place for place in places if os.path.exists(place)]
print(json.dumps(found))
"""


def test_home_environment_and_system_cannot_be_read(somebody):
    home = json.dumps(str(somebody.home))
    seen = told(somebody.outside(READING, home))
    assert {"in the home folder", "environment", "/etc/passwd", "/usr/bin"} <= set(seen)
    assert told(somebody.inside(READING, home)) == []


WRITING = """
import json, os, sys
places = json.load(sys.stdin)
places += [line.split()[1] for line in open("/proc/self/mounts") if "/proc" not in line]
written = []
for place in dict.fromkeys(places):
    try:
        with open(place + "/corsa-was-here", "w") as file:
            file.write("x")
        written.append(place)
        os.remove(place + "/corsa-was-here")
    except OSError:
        pass
print(json.dumps(written))
"""


def test_nothing_can_be_written_but_the_one_folder(somebody):
    places = json.dumps([str(somebody.home)])
    assert str(somebody.home) in told(somebody.outside(WRITING, places))
    places = json.dumps(
        [str(somebody.home), "/", "/dev", "/dev/shm", "/env", "/env/packages", "/usr/lib"]
    )
    assert told(somebody.inside(WRITING, places)) == ["/tmp"]


SOCKETS = """
import json, socket, sys
port, name = json.load(sys.stdin)
reached = []
for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, "\\0" + name)):
    try:
        with socket.socket(family) as other:
            other.settimeout(5)
            other.connect(address)
            reached.append(family.name)
    except OSError:
        pass
print(json.dumps(reached))
"""


def test_no_socket_leads_out(somebody):
    with socket.socket() as internet, socket.socket(socket.AF_UNIX) as local:
        internet.bind(("127.0.0.1", 0))
        internet.listen()
        local.bind(f"\0{somebody.token}")
        local.listen()
        given = json.dumps([internet.getsockname()[1], somebody.token])
        assert told(somebody.outside(SOCKETS, given)) == ["AF_INET", "AF_UNIX"]
        assert told(somebody.inside(SOCKETS, given)) == []


DEAF = """
import signal, time
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def test_whoever_ignores_signals_is_ended_on_time(somebody):
    process = somebody.start(somebody.python("-c", f"# {somebody.token}\n{DEAF}"))
    assert process.stdout.readline() == b"deaf\n"
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None  # as harmful as it can be: it stays
    process.kill()
    process.communicate()
    ended = somebody.inside(DEAF, seconds=3)
    assert (ended.why, ended.output, ended.status) == ("time", b"deaf\n", 128 + signal.SIGKILL)
    assert ended.seconds < 15
    assert somebody.nobody_left()


BUSY = "while True: pass"


def test_the_processor_is_limited_by_itself(somebody):
    ended = somebody.inside(BUSY, processor=1, seconds=60)
    assert (ended.why, ended.status) == ("exit", 128 + signal.SIGKILL)


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(30)
    os._exit(0)
os.wait()
"""


def test_a_daemonised_child_does_not_outlive_the_program(somebody):
    somebody.outside(DAEMON)
    assert somebody.at_large()
    somebody.end_all()
    assert somebody.inside(DAEMON).why == "exit"
    assert not somebody.at_large()


@pytest.mark.parametrize("seconds", [0, 0.02, 1])
def test_nothing_outlives_whoever_started_it(somebody, seconds):
    """Killed while the sandbox is set up, too: there bubblewrap alone leaves the program running."""
    process = somebody.begin("import time; time.sleep(60)")
    until = time.monotonic() + 60
    while not somebody.at_large():
        assert time.monotonic() < until
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    # What was being set up ends when nobody answers it: a busy machine takes long to come so far.
    assert somebody.nobody_left(seconds=30)


# Lets what it starts do to it whatever the kernel allows; its output is a pipe of its own.
WILLING = """
import ctypes, os
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
out, (read, write) = os.dup(1), os.pipe()
os.dup2(write, 1)
if os.fork():
    os.wait()
    os.write(out, os.read(read, 65536))
    os._exit(0)
"""
TOUCHING = """
import ctypes, json, os, sys
libc, touched = ctypes.CDLL(None, use_errno=True), []
other, parent = json.load(sys.stdin), os.getppid()
try:
    os.kill(other, 10)
    touched.append("signalled")
except OSError:
    pass
if libc.ptrace(16, parent, None, None) == 0:
    os.waitpid(parent, 0x40000000)
    libc.ptrace(17, parent, None, None)
    touched.append("traced its parent")
try:
    with open(f"/proc/{parent}/maps") as maps:
        place = next(int(line.split("-")[0], 16) for line in maps if " rw-p " in line)
    with open(f"/proc/{parent}/mem", "r+b", buffering=0) as memory:
        memory.seek(place)
        byte = memory.read(1)
        memory.seek(place)
        memory.write(byte)
    touched.append("wrote to its parent's memory")
except OSError:
    pass
try:
    with open(f"/proc/{parent}/fd/1", "w") as output:
        output.write("forged\\n")
    touched.append("spoke as its parent")
except OSError:
    pass
print(json.dumps(touched))
"""


def test_other_processes_cannot_be_touched(somebody):
    """Inside, the parent is the first process: whoever rules that one can outlive the supervisor."""
    victim = somebody.start(somebody.python("-c", f"# {somebody.token}\n{DEAF}"))
    assert victim.stdout.readline() == b"deaf\n"
    harm = somebody.outside(WILLING + TOUCHING, json.dumps(victim.pid))
    assert told(harm) == [
        "signalled",
        "traced its parent",
        "wrote to its parent's memory",
        "spoke as its parent",
    ]
    assert harm.output.startswith(b"forged\n")
    held = somebody.inside(TOUCHING, json.dumps(victim.pid))
    assert (told(held), held.output.count(b"\n")) == ([], 1)
    victim.kill()
    victim.communicate()


FORGING = """
import os
for pid in (1, os.getppid()):
    for descriptor in range(1, 10):
        try:
            file = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
            os.write(file, b'["new", "passed", 0]\\n')
        except OSError:
            pass
raise ValueError("wrong")
"""


def test_results_cannot_be_forged(somebody):
    """Neither through the harness nor the first process. That there is harm is shown above."""
    job = {"imports": [], "seconds": 20, "groups": {"new": [FORGING]}, "until_failure": []}
    held = somebody.inside(HARNESS, json.dumps(job))
    lines = [json.loads(line)[:2] for line in held.output.splitlines()]
    assert lines == [["ready", "passed"], ["new", "ValueError: wrong (line 10)"]]


# Kills and interrupts whatever it can, and leaves orphans behind.
MUTINY = """
import os, signal, time
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.2)
    os._exit(5)
os.wait()
time.sleep(0.5)
print([p for p in os.listdir("/proc") if p.isdigit()] == ["1", str(os.getpid())], flush=True)
os._exit(7)
"""


def test_the_first_process_heeds_no_signals_and_reaps(somebody):
    ended = somebody.inside(MUTINY)
    assert (ended.why, ended.status, ended.output) == ("exit", 7, b"True\n")


FILES = """
import json, os, sys, time
many, seconds = json.load(sys.stdin)
for number in range(many):
    os.close(os.open("x" * 230 + str(number), os.O_CREAT | os.O_WRONLY))
print(json.dumps(number + 1), flush=True)
time.sleep(seconds)
"""


def test_files_that_take_no_space_are_counted(somebody):
    """Empty ones with long names: a kilobyte and a half of the kernel's memory each, and no block."""
    assert told(somebody.outside(FILES, "[10000, 0]")) == 10_000
    assert told(somebody.inside(FILES, "[500, 1]", files=1000)) == 500
    assert somebody.inside(FILES, "[10000, 10]", files=1000).why == "memory"
    assert somebody.nobody_left()


DISK = """
import json, os
written = 0
for number in range(10):
    try:
        with open(f"filling-{number}", "wb", buffering=0) as file:
            for _ in range(10):
                written += file.write(b"x" * (1 << 20))
    except OSError:
        pass
print(json.dumps(written >> 20))
for number in range(10):
    if os.path.exists(f"filling-{number}"):
        os.remove(f"filling-{number}")
"""


def test_the_disk_is_not_filled(somebody):
    assert told(somebody.outside(DISK)) == 100
    assert 10 <= told(somebody.inside(DISK, disk=20 * MIB)) <= 20


STATUS = """
import json
lines = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
print(json.dumps([int(lines[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")]
                 + [int(lines["NoNewPrivs"])]))
"""


def test_there_are_no_capabilities_and_none_to_gain(somebody):
    assert told(somebody.outside(STATUS))[-1] == 0
    assert told(somebody.inside(STATUS)) == [0, 0, 0, 0, 1]


@pytest.mark.root
def test_root_is_somebody_else_outside_too(somebody):
    """Seen from outside, the program runs as an unprivileged user: what bubblewrap cannot do."""
    process = somebody.begin("import time; time.sleep(5)")
    while not (found := somebody.at_large()):
        time.sleep(0.02)
    status = [
        Path(f"/proc/{pid}/status").read_text().split("\nUid:")[1].split("\n")[0] for pid in found
    ]
    process.communicate()
    assert all("0" not in uids.split() for uids in status)
