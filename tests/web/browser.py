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
