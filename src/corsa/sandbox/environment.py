"""An interpreter with its packages in one folder of its own, made once and named by what was asked for.

The sandbox shows a program this folder and the system's shared libraries, nothing else. It is a copy
of the interpreter that runs corsa (hard links where that is possible), since that one may lie in a home
folder, and nothing of a home may be seen. Packages are installed by pip at the versions asked for; what
they need in turn is of the version that pip finds that day, and `content.json` in the folder says which.
One that is large and already here (torch) may be taken over instead.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from corsa.errors import SandboxError
from corsa.files import UNFINISHED, canonical_json, remove_folder, sha256_text
from corsa.progress import Progress, Silent

# Parts of the standard library that no test needs.
_LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "ensurepip")
# Where root keeps what others may read: what runs in the sandbox does not run as root.
_OF_ROOT = Path("/var/cache/corsa")


def make_environment(
    cache: Path,
    packages: Sequence[str] = (),
    taken: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """The folder with this interpreter and these packages; made if it is not there.

    Args:
        cache: the folder for all environments.
        packages: requirements for pip, with their versions where these matter.
        taken: modules that are taken over from the running interpreter as they are installed.
        progress: told what goes on.

    Returns:
        The folder, with `bin/python` and `packages`.

    Raises:
        SandboxError: if a package cannot be installed or is not here.
    """
    progress = progress or Silent()
    content: dict[str, object] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "prefix": sys.base_prefix,
        "packages": sorted(packages),
        "layout": 2,  # of this folder; to be raised when this file makes it otherwise
        "taken": {module: _version(module) for module in taken},
    }
    folder = _readable(cache / "sandbox") / f"python-{sha256_text(canonical_json(content))[:16]}"
    if folder.exists():
        return folder
    progress.begin(f"making the environment for programs ({', '.join(packages) or 'no packages'})")
    from filelock import FileLock

    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():  # somebody else made it meanwhile
            return folder
        beside = folder.with_name(f".{folder.name}{UNFINISHED}")
        remove_folder(beside)
        beside.mkdir()
        try:
            _interpreter(beside)
            _install(beside / "packages", packages)
            for module in taken:
                _take(module, beside / "packages")
            _compile(beside)
            content["installed"] = _installed(beside / "packages")
            (beside / "content.json").write_text(canonical_json(content), "utf-8")
            _open_to_all(beside)
            beside.rename(folder)
        except BaseException:
            remove_folder(beside)
            raise
    return folder


def _readable(folder: Path) -> Path:
    """The folder, or for root one that an unprivileged user can get to."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in folder.parents):
        folder.chmod(0o755)
        return folder
    _OF_ROOT.mkdir(parents=True, exist_ok=True)
    _OF_ROOT.chmod(0o755)
    return _OF_ROOT


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        raise SandboxError(f"{module} is not installed here: pip install {module}") from None


def _installed(folder: Path) -> dict[str, str]:
    """Names and versions of distributions."""
    found = importlib.metadata.distributions(path=[str(folder)])
    return {each.metadata["Name"]: each.version for each in found}


def _interpreter(folder: Path) -> None:
    """Copy the base interpreter, its standard library and the libraries it brings."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    (folder / "bin").mkdir()
    _link(executable, folder / "bin" / "python")
    target = folder / "lib" / library.name
    shutil.copytree(
        library,
        target,
        symlinks=True,
        ignore=shutil.ignore_patterns(*_LEFT_OUT, "config-*"),
        copy_function=_link,
        ignore_dangling_symlinks=True,
    )
    for shared in (Path(sys.base_prefix) / "lib").glob("*.so*"):
        if sys.base_prefix != "/usr":
            _link(shared.resolve(), folder / "lib" / shared.name)


def _install(folder: Path, packages: Sequence[str]) -> None:
    folder.mkdir()
    if not packages:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    made = subprocess.run(
        [*pip, "--only-binary=:all:", "--target", str(folder), *packages],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        why = (made.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise SandboxError(
            f"the environment for programs needs {', '.join(packages)}, and pip cannot install that for "
            f"Python {platform.python_version()}: {why}"
        )


def _take(module: str, folder: Path) -> None:
    """Every top-level folder and file of an installed distribution."""
    files = importlib.metadata.files(module) or []
    tops = {file.parts[0] for file in files if len(file.parts) > 1} - {"..", "bin"}
    for top in sorted(tops):
        source = Path(str(importlib.metadata.distribution(module).locate_file(top)))
        if source.is_dir() and not (folder / top).exists():
            shutil.copytree(
                source,
                folder / top,
                copy_function=_link,
                ignore=shutil.ignore_patterns("include", "test"),
            )


def _compile(folder: Path) -> None:
    """Byte code for what has none: inside nobody can write it, and torch alone takes seconds."""
    compiler = [str(folder / "bin" / "python"), "-I", "-S", "-m", "compileall", "-q", "-j", "1"]
    subprocess.run(
        [*compiler, str(folder / "lib"), str(folder / "packages")],
        env={"LD_LIBRARY_PATH": str(folder / "lib")},
        capture_output=True,  # files for other versions of Python cannot be compiled, and need not be
    )


def _link(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where none can be."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _open_to_all(folder: Path) -> None:
    """Folders that everybody may enter; what a strict umask made private is copied first."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(0o755)
        elif not path.stat().st_mode & 0o004:
            text = path.read_bytes()
            mode = path.stat().st_mode
            path.unlink()  # never the mode of a file that is linked elsewhere
            path.write_bytes(text)
            path.chmod((mode & 0o777) | 0o444)
