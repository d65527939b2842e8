"""What a patch says that it replaced and left."""

from dmgan_fast.compat import patch
from tests.compat.patched import built
from tests.compat.standins import DFGAN


def test_what_no_rule_is_for_is_reported():
    report = patch(built(DFGAN)).report()
    reasons = {entry.place: (entry.what, entry.reason) for entry in report.left}
    assert reasons["blocks.0"][0] == "Deep"
    assert "no rule" in reasons["blocks.0"][1]
    assert reasons["blocks.0.skip"] == (
        "convolution",
        "no kernel here is for its size, stride or padding; PyTorch's own runs it",
    )
    assert "5 × 3×3 convolution" in str(report)
    assert "left as it is:" in str(report)
