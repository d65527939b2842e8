"""A Chromium for the tests that need one; without it they are skipped, and say how to get one.

It is the program in ``DMGAN_CHROMIUM``, or one of these on the path. Nothing is downloaded.
"""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROGRAM = os.environ.get("DMGAN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(
    PROGRAM is None,
    reason=f"no Chromium ({', '.join(NAMES)}): install one, on Debian `apt install chromium`, or set DMGAN_CHROMIUM",
)
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def serious(page):
    """What axe-core finds that is serious or worse: rule and elements."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return {
        each["id"]: [node["html"] for node in each["nodes"]]
        for each in found
        if each["impact"] in ("serious", "critical")
    }


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


def faults_of(browser, file):
    """What is wrong with a page in a file, by day and by night, on a wide screen and a narrow one: serious findings of
    axe-core, requests to others, errors, and content wider than the window."""
    said, found = [], []
    for scheme, size in (("light", WIDE), ("dark", NARROW)):
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.on("request", lambda request: said.append(request.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(file.as_uri())
        found += serious(page).items()
        if page.evaluate("document.scrollingElement.scrollWidth > window.innerWidth"):
            found.append(f"wider than {size['width']}")
        page.close()
    return found + [each for each in said if each != file.as_uri() and not each.startswith("data:")]
