"""Up-sampling and convolution as one transposed convolution of PyTorch's."""

import pytest
import torch

from dmgan_fast.aten import upsample_conv3x3 as op
from tests.ops.harness import DTYPES, check
from tests.ops.test_backends import UPSAMPLE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", UPSAMPLE)
def test_the_transposed_convolution_is_as_exact_as_eager(name, dtype):
    check(UPSAMPLE[name], dtype, "aten", "cpu")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", op.HALF, ids=str)
def test_the_products_of_a_gpu_are_rounded_once(dtype, layout):
    """Spread and gathered weights are what float64 gives, rounded to sixteen bits, in the layout asked for."""
    draw = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(size, generator=draw).to(dtype) for size in ((6, 5, 3, 3), (5, 6, 4, 4)))
    wide = op.spread_by_product(weight, layout)
    assert wide.is_contiguous(memory_format=layout)
    taken = op.gather_by_product(gradient.contiguous(memory_format=layout))
    assert taken.is_contiguous()
    for found, exact in ((wide, op.spread(weight.double())), (taken, op.gather(gradient.double()))):
        error = (found.double() - exact).abs()
        assert (error <= 0.501 * torch.finfo(dtype).eps * exact.abs()).all()
