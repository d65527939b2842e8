"""3×3 convolutions on CPUs, by either kernel: results, and each gradient alone."""

import pytest

from dmgan_fast.aten.conv3x3 import conv3x3_backward, conv3x3_forward
from tests.aten.gradients import assert_as_pytorch_in_float64


@pytest.mark.parametrize("side", [6, 96])
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_each_gradient_comes_alone_and_is_that_of_pytorch_in_float64(side, wanted):
    assert_as_pytorch_in_float64(conv3x3_forward, conv3x3_backward, side, wanted, taps=3, stride=1)
