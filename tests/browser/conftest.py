"""One browser for all tests of a file."""

import os
import shutil

import pytest

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 600_000


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        told = "chromium is not installed: see tests/apt.txt"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    from playwright.sync_api import sync_playwright

    # the sandbox does not work for root, as in containers
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def new_page(chromium):
    """Open pages that a test waits for as long as a busy host needs."""

    def opened():
        page = chromium.new_page(viewport={"width": 1100, "height": 760})
        page.set_default_timeout(PATIENCE_MS)
        return page

    return opened
