"""Streaming moments against numpy in float64; chunks and processes do not show."""

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from dmgan_fast.errors import InputError
from dmgan_fast.evaluation import FeatureMoments
from dmgan_fast.evaluation.processes import Processes

ROWS, CHANNELS = 203, 6


def features(offset=0.0):
    random = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, CHANNELS, dtype=torch.float64, generator=random) * torch.arange(1, CHANNELS + 1) + offset


def close(moments, rows):
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.numpy().mean(0), rtol=1e-12, atol=1e-12)
    expected = np.cov(rows.numpy(), rowvar=False)
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-11, atol=1e-11 * expected.max())


@pytest.mark.parametrize("size", [1, 7, 64, ROWS])
def test_the_size_of_chunks_is_immaterial(size):
    moments = FeatureMoments(CHANNELS)
    for chunk in features().split(size):
        moments.add(chunk)
    close(moments, features())


def test_a_large_mean_costs_no_digits():
    moments = FeatureMoments(CHANNELS)
    for chunk in features(offset=1e7).split(10):
        moments.add(chunk)
    centred = FeatureMoments.of(features())
    assert (moments.covariance - centred.covariance).abs().max() < 1e-6 * centred.covariance.max()


def test_parts_are_merged_in_any_order():
    parts = [FeatureMoments.of(chunk) for chunk in features().split(50)]
    merged = FeatureMoments(CHANNELS)
    for part in reversed(parts):
        merged.merge(part)
    close(merged.merge(FeatureMoments(CHANNELS)), features())


def test_half_precision_and_no_rows_are_taken():
    moments = FeatureMoments(2).add(torch.ones(3, 2, dtype=torch.bfloat16)).add(torch.zeros(0, 2))
    assert (moments.count, moments.mean.tolist()) == (3, [1, 1])
    assert moments.constant
    assert not FeatureMoments.of(features()).constant
    assert FeatureMoments.of(torch.full((9, 2), 0.1)).constant


def test_bad_rows_are_refused_and_leave_the_moments_as_they_were():
    moments = FeatureMoments.of(features())
    spoilt = torch.ones(4, CHANNELS)
    spoilt[2, 1] = torch.nan
    with pytest.raises(InputError, match="features: row 2 is not finite"):
        moments.add(spoilt)
    with pytest.raises(InputError, match=r"features must be \[n, 6\], got \[2, 5\]"):
        moments.add(torch.zeros(2, 5))
    with pytest.raises(InputError, match=r"features must be \[N, D\], got \[3\]"):
        moments.add(torch.zeros(3))
    close(moments, features())
    with pytest.raises(InputError, match="a covariance needs at least 2 rows, got 1"):
        _ = FeatureMoments.of(torch.ones(1, 2)).covariance


def share(rank, size, folder):
    """One of ``size`` processes: its share of the chunks, then what all have."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    with Processes.joined() as processes:
        chunks = [range(start, min(start + 50, ROWS)) for start in range(0, ROWS, 50)]
        read = lambda rows: features(offset=100)[rows.start : rows.stop]  # noqa: E731
        moments = processes.moments(chunks, read, CHANNELS)
        rows = processes.rows(chunks, read)
        assert processes.from_first({"rank": rank}) == {"rank": 0}
        result = {"mean": moments.mean, "covariance": moments.covariance, "count": moments.count, "rows": rows}
        torch.save(result, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_sums_of_one_and_the_first_has_all_rows(tmp_path):
    multiprocessing.spawn(share, args=(2, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = FeatureMoments.of(features(offset=100))
    for result in results:
        assert result["count"] == ROWS
        torch.testing.assert_close(result["mean"], alone.mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(result["covariance"], alone.covariance, rtol=1e-11, atol=1e-11)
    assert torch.equal(results[0]["rows"], features(offset=100))
    assert results[1]["rows"] is None


def test_alone_a_process_has_everything():
    with Processes.joined() as processes:
        assert (processes.rank, processes.size) == (0, 1)
        rows = features()
        chunks = [range(0, 100), range(100, ROWS)]
        close(processes.moments(chunks, lambda r: rows[r.start : r.stop], CHANNELS), rows)
        assert torch.equal(processes.rows(chunks, lambda r: rows[r.start : r.stop]), rows)
