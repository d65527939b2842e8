"""The Triton kernels of upsample_conv3x3, interpreted."""

import pytest

from tests.kernels.dense import DTYPES, LAYOUTS, check_upsample, noise

from dmgan_fast.kernels import upsample_conv3x3  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of lanes that are masked off


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(2, 5, 7, 3, 5), (1, 40, 70, 5, 9), (3, 3, 2, 2, 1)])
def test_upsample_is_as_accurate_as_eager(sizes, dtype, layout, monkeypatch):
    monkeypatch.setattr(upsample_conv3x3, "SPLIT_PIXELS", 32)
    check_upsample(upsample_conv3x3, sizes, dtype, layout)


def test_only_the_gradients_asked_for_are_computed():
    x, weight, grad_y = noise(1, 3, 4, 4), noise(2, 3, 3, 3), noise(1, 2, 8, 8)
    grad_x, grad_weight = upsample_conv3x3.upsample_conv3x3_backward(grad_y, x, weight, False, True)
    assert (grad_x.shape, grad_weight.shape) == ((0,), weight.shape)
    grad_x, grad_weight = upsample_conv3x3.upsample_conv3x3_backward(grad_y, x, weight, True, False)
    assert (grad_x.shape, grad_weight.shape) == (x.shape, (0,))
