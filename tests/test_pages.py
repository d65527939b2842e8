"""Pages: what is filled in is escaped, figures are not, and nothing is fetched from elsewhere."""

import re

import pytest
import torch
from jinja2 import UndefinedError
from matplotlib.figure import Figure

from dmgan_fast import pages, report
from dmgan_fast.training.sampling import Drawing

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


def test_captions_cards_and_titles_of_the_report_are_escaped(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,seconds,loss\n20,60,1\n40,120,2\n")
    image, map_ = torch.zeros(3, 64, 64), torch.ones(1, 64, 64)
    drawing = Drawing(ODD, [ODD], [], [image], [map_], [map_[0]])
    section = report.Section(ODD, ODD, [drawing])
    found = report.write_page(tmp_path / "page.html", [section], {ODD: tmp_path}).read_text()
    assert "<script" not in found
    assert found.count("&lt;script&gt;") >= 2 + 2 + 2  # title and card, alt and caption, alt and word of the map
    assert "40 steps in 2.0 min" in found
    assert not re.findall(r'src="(?!data:image/png;base64,)', found)
