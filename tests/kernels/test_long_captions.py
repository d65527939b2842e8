"""Captions with more words than kernels take."""

import torch

from tests.kernels import interpreter  # noqa: F401  # before anything imports Triton

from dmgan_fast.kernels import memory_read  # isort: skip


def test_a_caption_padded_beyond_the_kernels_reads_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    h, key, value = (torch.randn(2, 16, *size, generator=draw) for size in ((5, 7), (31,), (31,)))
    gate = torch.randn(32, generator=draw), torch.randn(1, generator=draw)
    mask = torch.rand(2, 31, generator=draw) < 0.3
    mask[1] = True
    longer = [torch.nn.functional.pad(x, (0, 9), value=fill) for x, fill in ((key, 0.0), (value, 0.0), (mask, True))]
    for official in (False, True):
        expected = memory_read.memory_read_forward(h, key, value, *gate, mask, official, True, True)
        found = memory_read.memory_read_forward(h, *longer[:2], *gate, longer[2], official, True, True)
        assert not found[2][:, 31:].any()
        for ours, theirs in zip((*found[:2], found[2][:, :31], found[3]), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
