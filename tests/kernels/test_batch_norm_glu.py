"""The Triton kernels of batch_norm_glu, interpreted."""

import pytest
import torch

from tests.kernels.dense import DTYPES, EPS, LAYOUTS, check_batch_norm, noise

from dmgan_fast.kernels import batch_norm_glu  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of lanes that are masked off


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 10, 7, 9), (1, 96, 5, 5), (2, 6, 65, 33)])
def test_batch_norm_glu_is_as_accurate_as_eager(shape, dtype, layout):
    check_batch_norm(batch_norm_glu, shape, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("skip_channels", [12, 4])
def test_channels_take_the_skip_in_turn(skip_channels, layout):
    check_batch_norm(batch_norm_glu, (2, 12, 7, 9), torch.float32, layout, skip_channels=skip_channels)


def test_evaluation_uses_the_statistics_given():
    check_batch_norm(batch_norm_glu, (2, 10, 7, 9), torch.float32, LAYOUTS[0], training=False)


def test_weight_and_bias_may_be_missing():
    check_batch_norm(batch_norm_glu, (2, 10, 7, 9), torch.float32, LAYOUTS[0], affine=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_leaves_the_variance_exact(layout):
    check_batch_norm(batch_norm_glu, (2, 4, 65, 33), torch.float32, layout, offset=1000.0)
    x = (noise(2, 4, 65, 33) + 1000).contiguous(memory_format=layout)
    mean, var = batch_norm_glu.batch_norm_glu_statistics(x)
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)).float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(var, x.double().var((0, 2, 3), unbiased=False).float(), rtol=1e-6, atol=0)


def test_sums_of_all_processes_replace_the_local_ones():
    x, grad_y = noise(4, 6, 5, 7), noise(4, 3, 5, 7, seed=1)
    weight, bias = noise(6), noise(6, seed=1)
    op = batch_norm_glu
    _, mean, _, rstd, _ = op.batch_norm_glu_forward(x, weight, bias, None, None, None, EPS, False)
    whole = op.batch_norm_glu_backward(grad_y, None, x, weight, bias, mean, rstd, True, True, None, 0)
    sums = op.batch_norm_glu_reduce(grad_y, None, x, weight, bias, mean, rstd, True)
    halves = [
        op.batch_norm_glu_backward(grad_y[half], None, x[half], weight, bias, mean, rstd, True, True, sums, 4 * 35)
        for half in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), whole[0])
    torch.testing.assert_close(halves[0][1] + halves[1][1], whole[1])
    torch.testing.assert_close(halves[0][2] + halves[1][2], whole[2])
