"""Reports for people who decide: one HTML file about a store, or about a comparison of methods.

What is behind these two functions is imported when a report is written: it needs more than the rest.
"""

from __future__ import annotations

from pathlib import Path

from corsa.progress import Progress


def write_report(
    store: str | Path, out: str | Path | None = None, *, progress: Progress | None = None
) -> Path:
    """Write a store's report: one HTML file that needs no network. No model is loaded.

    Args:
        store: the store's folder.
        out: the file; `None`: `report.html` in that folder.
        progress: told what goes on.

    Returns:
        The file.

    Raises:
        StoreError: if there is no store, or the file cannot be written.
        CorruptError: if a file of the store is not what was written.
        UsageError: if something that is no report is at `out`, or a library is not installed.
    """
    from corsa.report.of_store import page_of_store
    from corsa.report.page import place, write_page

    folder = Path(store).expanduser()
    target = place(folder, out)
    return write_page(target, page_of_store(folder, progress))


def write_bench_report(
    bench: str | Path, out: str | Path | None = None, *, progress: Progress | None = None
) -> Path:
    """Write the report of a benchmark's folder: one HTML file that needs no network.

    Args:
        bench: what `corsa bench --out` named.
        out: the file; `None`: `report.html` in that folder.
        progress: told what goes on.

    Returns:
        The file.

    Raises:
        StoreError: if there is no benchmark, no run is finished, or the file cannot be written.
        CorruptError: if a file is not what was written.
        UsageError: if something that is no report is at `out`, or a library is not installed.
    """
    from corsa.report.of_bench import page_of_bench
    from corsa.report.page import place, write_page

    folder = Path(bench).expanduser()
    target = place(folder, out)
    return write_page(target, page_of_bench(folder, progress))
