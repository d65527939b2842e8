"""4×4 convolutions with stride 2 on CPUs, by either kernel: results, and each gradient alone."""

import pytest

from dmgan_fast.aten.conv4x4_stride2 import conv4x4_stride2_backward, conv4x4_stride2_forward
from tests.aten.gradients import assert_as_pytorch_in_float64


@pytest.mark.parametrize("side", [6, 96])
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_each_gradient_comes_alone_and_is_that_of_pytorch_in_float64(side, wanted):
    assert_as_pytorch_in_float64(conv4x4_stride2_forward, conv4x4_stride2_backward, side, wanted, taps=4, stride=2)
