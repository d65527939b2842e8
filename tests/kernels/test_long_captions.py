"""Captions with more words than kernels take."""

import pytest
import torch

from dmgan_fast import native
from tests.kernels import interpreter  # noqa: F401  # before anything imports Triton

from dmgan_fast.kernels import _long_captions, memory_read  # isort: skip


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


@pytest.mark.parametrize(("words", "by_kernels"), [(32, ["forward", "backward"]), (33, [])])
def test_the_cuda_kernels_get_no_captions_longer_than_a_row_of_registers(words, by_kernels):
    ran = []

    class Library:
        """The CPU's kernels, which say that they ran."""

        def memory_read_forward(*arguments):
            ran.append("forward")
            return native.load("cpu").memory_read_forward(*arguments)

        def memory_read_backward(*arguments):
            ran.append("backward")
            return native.load("cpu").memory_read_backward(*arguments)

    kernels = _long_captions.behind_cuda(Library)
    h, key, value = torch.randn(1, 8, 3, 5), torch.randn(1, 8, words), torch.randn(1, 8, words)
    out, lse, *_ = kernels.memory_read_forward(h, key, value, None, None, None, False, False, False)
    gradients = kernels.memory_read_backward(out, None, None, h, key, value, None, None, None, lse, False)
    assert ran == by_kernels
    assert gradients[1].shape == key.shape
