"""Programs of others, run where they can harm nobody.

bubblewrap gives a program namespaces of its own (processes, network, users, mounts, IPC, host name),
no capabilities, an empty environment, and a file system that holds its interpreter, the system's
shared libraries and one small folder in memory to write to. Root first becomes an unprivileged user:
run by root, bubblewrap leaves a program nearly all capabilities, and the kernel never limits the
number of processes of root's real uid, not even inside a user namespace.

What is left: programs share the kernel with us, and a program shares its process with its own tests.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corsa.errors import SandboxError
from corsa.sandbox.filter import forbidden_calls
from corsa.sandbox.limits import Ended, Limits
from corsa.sandbox.supervision import supervise

# Uids that no distribution gives to anybody: between systemd's dynamic users and nobody. In turn, for on
# kernels that count processes by uid alone two programs would share one limit.
_UIDS = itertools.cycle(range(65520, 65534))
_INSIDE = Path(__file__).with_name("inside.py")
_INTERPRETER = "/env/bin/python"
_FOLDER = "/tmp"
# Shared libraries and the loader; a link of the system's own stays one.
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
# One thread each: a pool of programs keeps the cores busy, and threads count as processes.
_ENVIRONMENT = {
    "HOME": _FOLDER,
    "LANG": "C.UTF-8",
    "PATH": "/env/bin",
    "LD_LIBRARY_PATH": "/env/lib",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
}
_PROBE = """
import os
if os.fork() == 0:
    os._exit(0)
os.wait()
print("ready")
"""

DEFAULT = Limits()

__all__ = ["DEFAULT", "Ended", "Limits", "Sandbox", "UnsafeRunner"]


class Sandbox:
    """Runs Python programs inside bubblewrap.

    Args:
        environment: from `corsa.sandbox.environment.make_environment`.

    Raises:
        SandboxError: if there is no bubblewrap here, or it cannot do what is needed.
    """

    def __init__(self, environment: Path) -> None:
        found = shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
        if found is None:
            raise SandboxError(
                "bubblewrap is not installed, and programs that a model wrote are run in no other way: "
                "install it (apt-get install bubblewrap, dnf install bubblewrap)"
            )
        self.environment = environment
        self._bwrap = found
        self._filter = forbidden_calls()
        if self._filter is None:
            raise SandboxError(f"there is no filter of system calls for {os.uname().machine}")
        probe = self.run(_PROBE, limits=Limits(seconds=30))
        if probe.output != b"ready\n":
            said = probe.errors.decode(errors="replace").strip().split("\n")[-1]
            raise SandboxError(
                f"bubblewrap cannot make a sandbox here (status {probe.status}: {said}); it needs "
                "version 0.8, Linux 5.14 and user namespaces for users who are not root"
            )

    def run(
        self,
        program: str,
        given: bytes = b"",
        limits: Limits = DEFAULT,
        stop: threading.Event | None = None,
    ) -> Ended:
        """Run a program until it ends or takes too much.

        Args:
            program: Python.
            given: its standard input.
            limits: what it may use.
            stop: ends it when set.

        Returns:
            How it ended; none of its processes is left.
        """
        user = next(_UIDS) if os.geteuid() == 0 else None
        assert self._filter is not None
        with _file(self._filter) as filter:
            command = [*self._command(limits, filter), *_interpreted(_INTERPRETER, program, limits)]
            # An empty environment already for bubblewrap: a program can read its parent's.
            return supervise(
                command,
                given,
                limits,
                environment={},
                user=user,
                inherited=[filter],
                folder=_FOLDER,
                stop=stop,
            )

    def _command(self, limits: Limits, filter: int) -> Iterator[str]:
        yield self._bwrap
        yield from ("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL")
        yield from ("--uid", "1000", "--gid", "1000", "--hostname", "sandbox")
        # The first process inside is ours (`inside.py`): bubblewrap's can be overwritten by the program.
        yield from ("--as-pid-1", "--die-with-parent", "--new-session", "--clearenv")
        for name, value in _ENVIRONMENT.items():
            yield from ("--setenv", name, value)
        for folder in map(Path, _SYSTEM):
            if folder.is_symlink():
                yield from ("--symlink", str(folder.readlink()), str(folder))
            elif folder.is_dir():
                yield from ("--ro-bind", str(folder), str(folder))
        yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
        yield from ("--ro-bind-try", "/etc/alternatives", "/etc/alternatives")
        yield from ("--ro-bind", str(self.environment), "/env")
        yield from ("--proc", "/proc", "--dev", "/dev")
        yield from ("--size", str(limits.disk), "--tmpfs", _FOLDER, "--chdir", _FOLDER)
        # Both are file systems in memory of no limited size, and would be the program's own.
        yield from ("--remount-ro", "/dev", "--remount-ro", "/")
        yield from ("--seccomp", str(filter), "--")


class UnsafeRunner:
    """Runs Python programs as oneself, with the same limits and nothing else around them.

    It is for who has no bubblewrap and knows what is run. A program can read and write whatever its user
    can, reach the network, and leave processes behind.

    Args:
        environment: from `corsa.sandbox.environment.make_environment`.
    """

    def __init__(self, environment: Path) -> None:
        self.environment = environment

    def run(
        self,
        program: str,
        given: bytes = b"",
        limits: Limits = DEFAULT,
        stop: threading.Event | None = None,
    ) -> Ended:
        """See `Sandbox.run`; what left its process tree is not found again.

        Args:
            program: Python.
            given: its standard input.
            limits: what it may use; processes are not bound: all of a user's would count.
            stop: ends it when set.

        Returns:
            How it ended.
        """
        interpreter = str(self.environment / "bin" / "python")
        with tempfile.TemporaryDirectory() as folder:
            environment = {**_ENVIRONMENT, "HOME": folder, "TMPDIR": folder}
            environment["LD_LIBRARY_PATH"] = str(self.environment / "lib")
            command = _interpreted(interpreter, program, limits, without=("RLIMIT_NPROC",))
            return supervise(command, given, limits, environment=environment, stop=stop)


def _interpreted(
    interpreter: str, program: str, limits: Limits, without: tuple[str, ...] = ()
) -> list[str]:
    bound = {k: v for k, v in limits.for_each_process().items() if k not in without}
    first = _INSIDE.read_text("utf-8")
    return [interpreter, "-I", "-S", "-c", first, json.dumps(bound), program]


@contextmanager
def _file(content: bytes) -> Iterator[int]:
    """A descriptor to read something from."""
    read, write = os.pipe()
    try:
        os.write(write, content)  # far less than a pipe holds
        os.close(write)
        yield read
    finally:
        os.close(read)
