"""Files of public data sets: where the hub keeps them, and their rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corsa.errors import ModelError, UsageError
from corsa.optional import optional
from corsa.readers import csv_rows
from corsa.sources import first_line


def from_hub(repository: str, file: str, instead: str) -> Path:
    """A file of a data set on the Hugging Face hub.

    Args:
        repository: of the data set.
        file: in that repository.
        instead: what gives a local file, for the error.

    Returns:
        Where it is in the hub's cache.

    Raises:
        ModelError: if it is neither there nor to be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset"))
    except (OSError, HfHubHTTPError) as error:
        raise ModelError(
            f"{repository}/{file} is not in the cache and the hub does not give it "
            f"({first_line(error)}): check the network, or give the file with {instead}"
        ) from error


def rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a file.

    Args:
        path: parquet, CSV, JSONL (also as .jsonl.gz), or a JSON array.

    Yields:
        One record at a time.

    Raises:
        UsageError: if it cannot be read.
    """
    if not path.is_file():
        there = (
            "is a folder: give the file in it"
            if path.is_dir()
            else "does not exist: check the path"
        )
        raise UsageError(f"the data {path} {there}")
    try:
        if path.suffix == ".parquet":
            yield from optional("pyarrow.parquet", "bench").read_table(path).to_pylist()
        elif path.name.endswith(".jsonl.gz"):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                yield from map(json.loads, filter(str.strip, lines))
        elif path.suffix == ".jsonl":
            yield from map(json.loads, filter(str.strip, path.read_text("utf-8").split("\n")))
        elif path.suffix == ".csv":
            for row in csv_rows(path.read_text("utf-8-sig"), str(path)):
                if row.problems:
                    raise UsageError(f"{row.where}: {'; '.join(row.problems)}")
                yield row.value
        else:
            found = json.loads(path.read_text("utf-8"))
            if not isinstance(found, list):
                raise UsageError(f"{path} is no array of records: write one as [{{...}}, {{...}}]")
            yield from found
    except UsageError:
        raise
    except (OSError, ValueError, EOFError) as error:  # pyarrow's errors are these, too
        raise UsageError(f"{path} cannot be read: {first_line(error)}") from error
