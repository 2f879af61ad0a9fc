"""A real browser for the tests of the page: Debian's chromium, driven by Playwright.

A test that asks for `page` is skipped where either is missing, with the reason; MINILLM_TEST_BROWSER=required makes it
fail in place of that.
"""

import os
import shutil

import pytest
from web_testing import served

TIMEOUT = 20_000  # milliseconds, for what takes a moment: other tests have the cores, too


def missing(reason):
    """Skip, or fail where a browser is required."""
    if os.environ.get("MINILLM_TEST_BROWSER") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        missing("Playwright is missing: pip install -e .[test-web]")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("chromium is missing: apt-get install chromium")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        # Debian's start script and root's lack of a sandbox are the reason for the argument.
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page in a fresh browser profile. An error in its console that the test does not take from page.errors fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.set_default_timeout(TIMEOUT)
    yield opened
    context.close()
    assert opened.errors == []


@pytest.fixture(scope="session")
def play(tmp_path_factory):
    """The address of Play with the lessons' small model."""
    from minillm.web.play.opening import open_studio

    with served(open_studio(None, tmp_path_factory.mktemp("runs"))) as address:
        yield address
