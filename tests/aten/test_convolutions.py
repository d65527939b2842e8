"""Which kernel runs a convolution."""

import pytest
import torch

from dmgan_fast.aten import convolutions


def test_a_weight_of_millions_of_elements_is_a_matrix():
    head = torch.empty(1024, 512, 4, 4)
    assert convolutions.runs_as_matrix("conv4x4_stride2", 4 * 4 * 4, head)
    assert not convolutions.runs_as_matrix("conv4x4_stride2", 4 * 8 * 8, head[:512, :256])


@pytest.mark.parametrize("op", ["conv3x3", "conv4x4_stride2", "upsample_conv3x3"])
def test_each_direction_takes_the_faster_kernel(op):
    assert convolutions.runs_forward(op, 1 << 20, 64)
    assert convolutions.runs_forward(op, 16, 64) == (op == "upsample_conv3x3")
    assert convolutions.runs_weight(op, 1 << 20, 64, 64)
    upsamples = op == "upsample_conv3x3"
    assert convolutions.runs_forward(op, 1 << 20, 3) == upsamples, "large results of few inputs are PyTorch's"
    assert convolutions.runs_weight(op, 1 << 20, 3, 64) == upsamples
    assert convolutions.runs_weight(op, 1 << 20, 64, 3) != upsamples
