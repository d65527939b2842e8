"""The benchmark of loading: every way gives the same batches, and is set against a step."""

import torch

from benchmarks import loading


def test_rows_name_every_way_of_reading_and_how_many_batches_come_in_a_step(tmp_path):
    step = loading.training_step(torch.device("cpu"), small=True)
    rows = loading.rows_of(tmp_path, 3, step=step, count=4, batch_size=2, sizes=(8, 16), workers=1)
    assert [row["implementation"] for row in rows] == [
        "item by item",
        "loader",
        "loader, decoded images in memory",
        "loader, 1 workers",
        "loader, 1 workers, decoded images in memory",
    ]
    for row in rows:
        assert row["correct"]
        assert row["steps"] == row["step_ms"] / row["mean_ms"]
    assert "in a step" in loading.table(rows).markdown()


def test_the_gate_closes_on_other_pixels(tmp_path):
    readers = loading.ways(loading.photographs(tmp_path, 2), 2, (8, 16), torch.device("cpu"), 0)
    batches = [next(reader) for reader in readers.values()]
    assert loading.are_alike(batches)
    batches[1].images[-1][0, 0, 0, 0] += 1
    assert not loading.are_alike(batches)
