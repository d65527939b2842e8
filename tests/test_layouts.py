"""Layouts of feature maps, and what results look like."""

import torch

from dmgan_fast import layouts

NCHW = torch.randn(2, 3, 4, 5)
NHWC = NCHW.contiguous(memory_format=torch.channels_last)


def test_channels_last_is_told_from_contiguous_and_what_is_both_counts_as_contiguous():
    assert [layouts.is_channels_last(x) for x in (NCHW, NHWC, torch.randn(2, 1, 4, 5))] == [False, True, False]
    assert layouts.memory_format(NHWC) == torch.channels_last
    assert layouts.memory_format(NCHW) == torch.contiguous_format


def test_maps_with_evenly_spaced_pixels_are_not_copied():
    channels = NCHW[:, :2]
    for x in (NCHW, NHWC, channels):
        assert layouts.pixel_linear(x) is x
    rows = NCHW[..., :3]
    assert layouts.pixel_linear(rows).is_contiguous()
    assert torch.equal(layouts.pixel_linear(rows), rows)


def test_only_maps_with_gaps_are_copied_to_be_dense():
    assert layouts.dense(NCHW) is NCHW
    assert layouts.dense(NHWC) is NHWC
    channels = NCHW[:, :2]
    assert layouts.dense(channels).is_contiguous()
    assert torch.equal(layouts.dense(channels), channels)


def test_results_have_the_layout_and_dtype_of_the_input():
    for x in (NCHW.half(), NHWC.half()):
        y = layouts.empty_map(x, 7, 6, 8)
        assert (y.shape, y.dtype) == ((2, 7, 6, 8), torch.float16)
        assert layouts.memory_format(y) == layouts.memory_format(x)
        assert layouts.dense_like(NCHW, x).stride() == x.stride()


def test_numbers_of_channels_become_float32_and_none_stays_none():
    found = layouts.wide(torch.ones(6, dtype=torch.bfloat16)[::2])
    assert (found.dtype, found.stride(), found.tolist()) == (torch.float32, (1,), [1, 1, 1])
    assert layouts.wide(None) is None
