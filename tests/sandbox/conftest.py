"""Who attacks, and from where: outside first, to show that there is harm, then inside."""

import base64
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

import corsa
from corsa.sandbox.environment import make_environment

# An unprivileged uid that runs nothing else here.
ORDINARY = 65519


@pytest.fixture(scope="session")
def place():
    """A folder that everybody may read and write: pytest's own are closed to other users."""
    folder = Path(tempfile.mkdtemp(prefix="corsa-sandbox-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def environment(place):
    return make_environment(place / "cache")


@pytest.fixture(scope="session")
def package(place):
    """What the driver imports, where everybody may read it."""
    source, target = Path(corsa.__file__).parent, place / "driver"
    shutil.copytree(source / "sandbox", target / "corsa" / "sandbox")
    (target / "corsa" / "__init__.py").touch()
    shutil.copy(source / "errors.py", target / "corsa")
    shutil.copy(Path(__file__).with_name("driver.py"), target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


@dataclass
class Somebody:
    """A user who runs programs, outside or in the sandbox."""

    uid: int
    environment: Path
    package: Path
    home: Path
    token: str = field(default_factory=lambda: f"corsa-test-{secrets.token_hex(8)}")

    def start(self, command, **more):
        identity = {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.home,
            env={
                "HOME": str(self.home),
                "SECRET": "in the environment",
                "PATH": os.environ["PATH"],
                "LD_LIBRARY_PATH": str(self.environment / "lib"),
            },
            **(identity if os.geteuid() == 0 else {}),
            **more,
        )

    def python(self, *arguments):
        return [str(self.environment / "bin" / "python"), "-I", "-S", *arguments]

    def _marked(self, program):
        return f"# {self.token}\n{program}"

    def outside(self, program, given=""):
        """What a program does where nothing holds it."""
        process = self.start(self.python("-c", self._marked(program)))
        output, errors = process.communicate(given.encode(), timeout=60)
        return SimpleNamespace(output=output, errors=errors.decode(), status=process.returncode)

    def begin(self, program, given="", runner="sandbox", **limits):
        process = self.start(self.python(str(self.package / "driver.py")))
        task = {
            "runner": runner,
            "environment": str(self.environment),
            "program": self._marked(program),
            "given": given,
            "limits": {"seconds": 30, **limits},
        }
        process.stdin.write(json.dumps(task).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def inside(self, program, given="", **more):
        process = self.begin(program, given, **more)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output.decode() + errors.decode()
        ended = SimpleNamespace(**json.loads(output))
        ended.output = base64.b64decode(ended.output)
        return ended

    def at_large(self):
        """Processes anywhere on this machine that run a program of this user's."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if (
                    self.token.encode() in (entry / "cmdline").read_bytes()
                    and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def nobody_left(self, seconds=5):
        until = time.monotonic() + seconds
        while self.at_large() and time.monotonic() < until:
            time.sleep(0.05)
        return not self.at_large()

    def end_all(self):
        for pid in self.at_large():
            os.kill(pid, 9)


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.root), "ordinary user"])
def somebody(request, environment, package, place):
    uid = 0 if request.param == "root" else (ORDINARY if os.geteuid() == 0 else os.geteuid())
    home = Path(tempfile.mkdtemp(prefix="home-", dir=place))
    (home / "secret.txt").write_text("in the home folder")
    if os.geteuid() == 0:
        os.chown(home, uid, uid)
        os.chown(home / "secret.txt", uid, uid)
        (home / "secret.txt").chmod(0o600)
    else:
        assert uid != 0
    person = Somebody(uid, environment, package, home)
    yield person
    person.end_all()
