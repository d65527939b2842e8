"""Sampling in sixteen bits, by its command."""

import json

import pytest

from benchmarks import sampling


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_trial_in_sixteen_bits_is_right_and_tells_images_a_second(precision, tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    given = ["sampling", "--tiny", "--precision", precision, "--repeats", "1", "--json", str(file)]
    monkeypatch.setattr("sys.argv", given)
    sampling.main()
    rows = json.loads(file.read_text())
    assert [row["implementation"] for row in rows] == ["authors", "dmgan_fast", "dmgan_fast, folded"]
    assert all(row["correct"] and row["precision"] == precision for row in rows)
    assert all(row["images_per_second"] == pytest.approx(2e3 / row["median_ms"]) for row in rows)
    assert f"tiny B2, {precision}" in capsys.readouterr().out
