"""The page of a demo."""

import re

import torch

from dmgan_fast import report
from dmgan_fast.sampling import Sample
from tests.web.browser import browser, faults_of, needs_chromium  # noqa: F401

ODD = '<script>alert("a & b")</script>'


def test_captions_cards_and_titles_of_the_report_are_escaped(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,seconds,loss\n20,60,1\n40,120,2\n")
    image, map_ = torch.zeros(3, 64, 64), torch.ones(1, 64, 64)
    sample = Sample(ODD, [ODD], [], [image], [map_], [map_[0]])
    section = report.Section(ODD, ODD, [sample])
    found = report.write_page(tmp_path / "page.html", [section], {ODD: tmp_path}).read_text()
    assert "<script" not in found
    assert found.count("&lt;script&gt;") >= 2 + 2 + 2  # title and card, alt and caption, alt and word of the map
    assert "40 steps in 2.0 min" in found
    assert not re.findall(r'src="(?!data:image/png;base64,)', found)


@needs_chromium
def test_the_page_can_be_used_by_everyone_on_any_screen(browser, tmp_path):  # noqa: F811
    (tmp_path / "metrics.csv").write_text("step,seconds,loss,another\n20,60,1,2\n40,120,2,1\n")
    images, maps = [torch.zeros(3, size, size) for size in (64, 128)], torch.rand(5, 128, 128)
    words = "a red apple with leaves".split()  # noqa: SIM905
    sample = Sample(" ".join(words), words, [], images, [maps], [maps[0]])
    sections = [report.Section(title, "A model card.", [sample]) for title in ("Shipped weights", "Just trained")]
    page = report.write_page(tmp_path / "page.html", sections, {"Encoders": tmp_path, "GAN": tmp_path})
    assert faults_of(browser, page) == []
