"""Scaling of ops on a GPU: axes, and backends that are not there."""

import json

from benchmarks import scaling
from benchmarks.common import Target
from benchmarks.ops import memory_path


def test_a_trial_in_sixteen_bits_writes_its_precision(tmp_path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    given = ["scaling", "--tiny", "--precision", "bf16", "--ops", "memory_path", "--repeats", "1", "--json", str(file)]
    monkeypatch.setattr("sys.argv", given)
    scaling.main()
    rows = json.loads(file.read_text())
    assert {row["precision"] for row in rows} == {"bf16"}
    assert {row["axis"] for row in rows} >= {"batch", "words"}
    assert all(row["median_ms"] > 0 for row in rows)


def test_threads_are_no_axis_of_a_gpu():
    assert {axis for _, axis, *_ in scaling._cells(["memory_path"], "cuda")} == {"batch", "side", "words"}


def test_a_backend_that_can_not_run_is_told_and_the_others_are_timed(monkeypatch):
    backends = {"dmgan_fast": "auto", "dmgan_fast, cuda": "cuda"}
    monkeypatch.setattr(Target, "backends", lambda self: backends)
    monkeypatch.setitem(scaling.OPS, "memory_path", lambda target, **sizes: memory_path.case(target, batch=2, side=4))
    rows = scaling.rows_of(1, Target(), ("memory_path",), 1)
    told = {row["implementation"]: row for row in rows}
    assert "tensors are on cpu" in told["dmgan_fast, cuda"]["unavailable"]
    assert "median_ms" not in told["dmgan_fast, cuda"]
    assert told["dmgan_fast"]["median_ms"] > 0
