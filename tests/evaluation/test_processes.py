"""Evaluation on several processes: each has the sums of all, and the first all rows in order."""

import torch
from torch import distributed, multiprocessing

from dmgan_fast.evaluation.processes import Processes
from dmgan_fast.metrics import FeatureMoments
from tests.metrics.test_moments import CHANNELS, ROWS, close, features


def share(rank, size, folder):
    """One of ``size`` processes: its share of the chunks, then what all have."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    with Processes.joined() as processes:
        chunks = [range(start, min(start + 50, ROWS)) for start in range(0, ROWS, 50)]
        read = lambda rows: features(offset=100)[rows.start : rows.stop]  # noqa: E731
        moments = processes.moments(chunks, read, CHANNELS)
        rows = processes.all_rows(chunks, read)
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
        assert torch.equal(processes.all_rows(chunks, lambda r: rows[r.start : r.stop]), rows)
