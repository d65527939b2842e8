"""A look at the images themselves, quick or whole."""

import pytest

from dmgan_fast.data import Purpose, check_data
from dmgan_fast.data import look as looking
from tests.data.shapes import shapes


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
def test_a_quick_look_finds_what_is_cut_off(tmp_path, monkeypatch, suffix):
    shapes(tmp_path, 8, suffix=suffix, size=(60, 60))
    monkeypatch.setattr(looking, "DECODED", 0)
    quick = check_data(tmp_path, Purpose(image_size=8))
    assert (quick.findings, quick.facts.looks.how) == ((), "headers and ends read")
    file = tmp_path / f"02.{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert [item.name for item in check_data(tmp_path, Purpose(image_size=8)).facts.bad] == [f"02.{suffix}"]


def test_a_quick_look_decodes_nothing_that_looks_whole_and_a_full_one_all(tmp_path, monkeypatch):
    shapes(tmp_path, 8, size=(64, 64))
    file = tmp_path / "02.png"
    content = bytearray(file.read_bytes())
    content[60] ^= 255  # in the middle of the pixels
    file.write_bytes(content)
    monkeypatch.setattr(looking, "DECODED", 0)
    assert not check_data(tmp_path, Purpose(image_size=8)).facts.bad
    assert [item.name for item in check_data(tmp_path, Purpose(image_size=8), decode=True).facts.bad] == ["02.png"]


def test_of_a_large_set_a_spread_sample_is_looked_at_and_the_report_says_so(tmp_path, monkeypatch):
    shapes(tmp_path, 40)
    monkeypatch.setattr(looking, "DECODED", 0)
    monkeypatch.setattr(looking, "SAMPLE", 8)
    report = check_data(tmp_path, Purpose(image_size=8))
    assert "images looked at: 8, headers and ends read (--decode reads all of every image)" in report.text()
    (tmp_path / "31.png").unlink()  # that it is there is asked of all
    assert [item.name for item in check_data(tmp_path, Purpose(image_size=8)).facts.bad] == ["31.png"]
