"""What every test shares: no network, one seed, a cache of its own, and a short list of skips."""

import os
import shutil

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does; before torch

if not (_HUB := os.environ.get("CORSA_TEST_HUB")):
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers

import pytest
import torch

# All that may be skipped, by marker, and when. Any other skip fails the run where CI is set.
SKIPPABLE = {
    "gpu": ("no GPU", not torch.cuda.is_available()),
    "hub": ("CORSA_TEST_HUB is not set", not _HUB),
    # Where CI is set they run, and fail: the run installs it.
    "sandbox": ("no bubblewrap", not (os.environ.get("CI") or shutil.which("bwrap"))),
    "root": ("not root", os.geteuid() != 0),
}
# The embedded model takes half a minute to convert: its tests use what the user's cache holds.
_OF_THE_USER = ("test_embedded.py", "test_tutorial.py", "test_exported.py")

_unexpected: list[str] = []


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def _surroundings(request, _cache):
    """A cache and one thread: tiny models gain nothing by more, and lose much where others work."""
    if request.path.name in _OF_THE_USER:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORSA_CACHE", str(_cache))
        patch.setenv("OMP_NUM_THREADS", "1")  # of processes that tests start
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def pytest_report_header():
    rows = [
        f"{name}: {reason if absent else 'runs'}" for name, (reason, absent) in SKIPPABLE.items()
    ]
    return f"may be skipped: {'; '.join(rows)}"


def pytest_collection_modifyitems(items):
    for item in items:
        for name, (reason, absent) in SKIPPABLE.items():
            if absent and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))


def pytest_runtest_logreport(report):
    _note_skip(report)


def pytest_collectreport(report):
    _note_skip(report)


def _note_skip(report):
    allowed = any(name in getattr(report, "keywords", {}) for name in SKIPPABLE)
    if report.skipped and not hasattr(report, "wasxfail") and not allowed:
        _unexpected.append(f"{report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session):
    if _unexpected and os.environ.get("CI"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(pytest_report_header())
    for line in _unexpected:
        terminalreporter.write_line(f"skipped without leave: {line}", red=True)
