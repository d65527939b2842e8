"""The page of a demo."""

import re

import torch

from dmgan_fast import report
from dmgan_fast.sampling import Sample

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
