"""The GGUF file a base model came from, if it came from one."""

from __future__ import annotations

from pathlib import Path

from corsa.errors import UsageError
from corsa.export.gguf_layout import converters
from corsa.export.request import Request
from corsa.sources import ModelSource, embedded_file


def base_file(request: Request) -> tuple[Path, ModelSource]:
    """Find the file, and the model that was converted from it.

    Args:
        request: what is exported.

    Returns:
        Both.

    Raises:
        UsageError: if the base model did not come from a GGUF file.
    """
    request.progress.begin(f"looking for {request.model['name']}")
    source = request.find_base()
    if source.kind == "embedded":
        return embedded_file(), source
    if source.kind == "gguf":
        return Path(source.name).expanduser(), source
    raise UsageError(
        f"{source.name} did not come from a GGUF file, whose metadata and tokenizer would be needed: "
        f"{converters()}"
    )
