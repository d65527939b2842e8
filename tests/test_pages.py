"""Pages: what is filled in is escaped, figures are not, and nothing is fetched from elsewhere."""

import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure

from dmgan_fast import pages

ODD = '<script>alert("a & b")</script>'


@pytest.fixture
def template(tmp_path):
    file = tmp_path / "one.html"
    file.write_text(
        '{% extends "base.html" %}{% block main %}<i title="{{ text }}">{{ text }}</i>{{ figure }}{% endblock %}'
    )
    return file


def test_text_is_escaped_and_figures_are_inline(tmp_path, template):
    page = pages.write_page(tmp_path / "page.html", template, text=ODD, figure=pages.inline_svg(Figure()))
    found = page.read_text()
    assert ODD not in found
    assert found.count("&lt;script&gt;alert(&#34;a &amp; b&#34;)&lt;/script&gt;") == 2
    assert "<svg" in found
    assert (pages.TEMPLATES / "style.css").read_text().strip() in found, "the one style sheet is inside"


def test_a_value_that_is_missing_fails_and_leaves_no_page(tmp_path, template):
    with pytest.raises(UndefinedError, match="'figure' is undefined"):
        pages.write_page(tmp_path / "page.html", template, text="")
    assert not (tmp_path / "page.html").exists()
