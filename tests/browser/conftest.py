"""A real Chromium that may reach nothing: every request but those for files fails the test."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items):
    for item in items:  # this hook is given every test there is
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium():
    path = os.environ.get("CORSA_TEST_BROWSER") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    assert path, "no Chromium: apt-get install chromium, or name one in CORSA_TEST_BROWSER"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a file as a double click would; at the end nothing was fetched and nothing complained."""
    contexts, complaints = [], []

    def opened(file, *, width=1600, scheme="light", **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        context.route(
            lambda url: not url.startswith("file:"),
            lambda route: (complaints.append(f"fetched {route.request.url}"), route.abort()),
        )
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("a dialog"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                complaints.append(f"asked for {request.url}")
                if not request.url.startswith("file:")
                else None
            ),
        )
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints
