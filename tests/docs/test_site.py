"""The documentation as a web site: it builds without a warning, shows public names, and loads only its own files."""

import os
import re
from html.parser import HTMLParser

import pytest

import dmgan_fast
from tests.docs.pages import ROOT

os.environ["NO_MKDOCS_2_WARNING"] = "1"  # mkdocs-material speaks of its successor

from mkdocs.commands.build import build
from mkdocs.config import load_config

from tools import site as hook


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. A link or an anchor that leads nowhere, or any other warning, is an error."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
    build(config)
    return folder


class Sources(HTMLParser):
    """What a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("img", "script", "iframe", "source") and given.get("src"):
            self.found.add(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            self.found.add(given["href"])


def test_every_page_is_built_and_loads_only_its_own_files(site):
    pages = list(site.rglob("*.html"))
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {page.stem for page in pages}
    for page in pages:
        sources = Sources()
        sources.feed(page.read_text(encoding="utf-8"))
        assert sources.found
        assert [source for source in sources.found if re.match(r"(https?:)?//", source)] == [], page


def test_every_public_name_is_in_the_api(site):
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    shown = set(re.findall(r'id="dmgan_fast\.[\w.]*?(\w+)"', text))
    for package in ("functional", "modules", "losses", "training", "sampling", "data", "evaluation", "compat"):
        missing = set(getattr(dmgan_fast, package).__all__) - shown
        assert missing == set(), package


def test_equations_are_mathml_and_every_command_has_its_options(site):
    concepts = (site / "concepts.html").read_text(encoding="utf-8")
    assert concepts.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"') >= 8
    assert "arithmatex" not in concepts
    page = (site / "commands.html").read_text(encoding="utf-8")
    for name in ("sample", "train", "evaluate"):
        assert f'<h2 id="{name}">' in page
    assert ">--seed</code>" in page


def test_pages_of_the_root_have_links_of_the_site():
    page = hook.inside((ROOT / "README.md").read_text(encoding="utf-8"))
    assert "](install.md)" in page
    assert "](contributing.md)" in page
    assert "docs/" not in "".join(re.findall(r"\]\([^)]*\)", page))


def test_a_page_that_the_navigation_does_not_name_is_added(tmp_path):
    changed = load_config(str(ROOT / "mkdocs.yml"))
    changed.docs_dir = str(tmp_path)
    (tmp_path / "a-new-page.md").write_text("# A new page\n")
    guides = next(entry["Guides"] for entry in hook.on_config(changed).nav if "Guides" in entry)
    assert guides[-1] == "a-new-page.md"
