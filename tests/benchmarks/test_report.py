"""The tables of README and docs: written between markers, and those of the committed results."""

import pytest

from benchmarks.common import ROOT
from benchmarks.report import readme, replace_after
from dmgan_fast.errors import InputError


@pytest.mark.parametrize(("markers", "missing"), [(("<x>\n",), "<x>"), (("<a>\n", "<x>\n"), "<x>")])
def test_a_page_without_its_marker_is_left_as_it_is(tmp_path, markers, missing):
    file = tmp_path / "page.md"
    file.write_text("head\n<a>\nold\n")
    with pytest.raises(InputError, match=f"page.md: has no line '{missing}'"):
        replace_after(file, markers[0], "new\n", *markers[1:])
    assert file.read_text() == "head\n<a>\nold\n"


@pytest.mark.parametrize("table", [readme.headline, readme.replaced])
def test_readme_shows_what_was_measured(table):
    """Else run ``python -m benchmarks.report``."""
    assert f" -->\n\n{table()}\n<!-- end of" in (ROOT / "README.md").read_text()
