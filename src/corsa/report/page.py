"""A page: one HTML file that needs nothing but itself, whatever the texts in it try.

jinja2 escapes every text; beside that the page's own policy lets nothing run but its one script, known
by its hash, and nothing be fetched at all.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from corsa.errors import StoreError, UsageError
from corsa.files import write_atomically
from corsa.metrics import Number

# By this a file is known as one of ours, which may be written anew.
_GENERATOR = '<meta name="generator" content="corsa report">'
# Characters that turn the order of what follows; everything else of category Cf joins letters.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# From here on a text is cut, and unfolds.
_LONG = 240


def render(template: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: its file in `templates/`.
        values: what it shows.

    Returns:
        One HTML document.
    """
    environment = Environment(
        loader=PackageLoader("corsa.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        visible=visible, percent=percent, number=number, duration=duration, size=size, when=when
    )
    script, style = (_text(name) for name in ("script.js", "style.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        values,
        generator=Markup(_GENERATOR),
        script=Markup(script),
        style=Markup(style),
        script_hash=f"sha256-{digest}",
        long=_LONG,
    )


def write_page(out: Path, text: str) -> Path:
    """Put a page down as a whole; nothing but an older report is written over.

    Args:
        out: the file.
        text: the page.

    Returns:
        The file.

    Raises:
        StoreError: if it cannot be written.
    """
    try:
        write_atomically(out, text)
    except OSError as error:
        raise StoreError(
            f"cannot write {out} ({error.strerror or error}): make room, mend the permissions, or "
            "give another place by --out"
        ) from error
    return out


def place(folder: Path, out: str | Path | None) -> Path:
    """Where a report goes; refused before any work is done if it cannot go there.

    Args:
        folder: what it is about.
        out: the file the user named, if any.

    Returns:
        The file.

    Raises:
        UsageError: if something that is no report is there, or no folder to put it in.
    """
    file = folder / "report.html" if out is None else Path(out).expanduser()
    if file.is_dir():
        raise UsageError(f"{file} is a folder: name a file, such as {file / 'report.html'}")
    if out is not None and not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}: make it, or give another --out")
    if file.exists() and _GENERATOR not in _beginning(file):
        raise UsageError(
            f"{file} is no report of corsa and is not written over: remove it, or give another --out"
        )
    return file


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(2000).decode("utf-8", "replace")


def _text(name: str) -> str:
    return resources.files("corsa.report").joinpath("templates", name).read_text("utf-8")


# --- How things are written -----------------------------------------------------------------------


def visible(text: object) -> str:
    """A text with what a reader could not see, or would be misled by, named by its code point.

    Args:
        text: anything; untrusted.

    Returns:
        The same without control characters and without those that turn the direction of a line.
    """
    return "".join(
        f"⟨U+{ord(char):04X}⟩"
        if char in _TURNING or (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t")
        else char
        for char in str(text)
    )


def percent(share: Number) -> str:
    """A share for people.

    Args:
        share: from 0 to 1.

    Returns:
        Such as "61 %", never rounded up to all or down to nothing; "–" where there is none.
    """
    if share is None:
        return "–"
    shown = f"{100 * share:.0f}"
    if (shown == "100" and share < 1) or (shown == "0" and share > 0):
        shown = "> 99" if share > 0.5 else "< 1"
    return f"{shown}\u00a0%"


def number(value: Number, digits: int = 1) -> str:
    """A number for people.

    Args:
        value: the number.
        digits: after the point.

    Returns:
        Its text with a true minus; "–" where there is none.
    """
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def duration(seconds: Number) -> str:
    """A time for people.

    Args:
        seconds: how long.

    Returns:
        Such as "95 s" or "8 min 28 s"; "–" where there is none.
    """
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int | None) -> str:
    """Bytes for people.

    Args:
        count: how many.

    Returns:
        Such as "1.4 GB"; "–" where it is not known.
    """
    return (
        "–" if not count else f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
    )


def when(time: str | None) -> str:
    """A time of the journal for people.

    Args:
        time: ISO 8601, in UTC.

    Returns:
        Such as "2026-11-22 17:05 UTC"; "–" where it is not known.
    """
    return "–" if not time else f"{time[:16].replace('T', ' ')} UTC"


def named(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings or a protocol, a line each; what is nested gets dotted names.

    Args:
        values: plain data.

    Returns:
        Names and values as text.
    """
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [(f"{name}: {inner}", text) for inner, text in named(value)]
        elif isinstance(value, bool):
            lines.append((name, "true" if value else "false"))
        elif isinstance(value, list):
            lines.append((name, ", ".join(map(str, value))))
        else:
            lines.append((name, "–" if value is None else str(value)))
    return lines
