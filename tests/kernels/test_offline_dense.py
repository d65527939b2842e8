"""What the compiled kernels around the convolutions and of the words loss need on each card, at DM-GAN's sizes."""

import pytest
import torch

from tests.kernels.offline import SHARED_BYTES, compile_launches


def launch_batch_norm(dtype, layout):
    from dmgan_fast.kernels import batch_norm_glu as op

    x = torch.empty(2, 128, 64, 64, dtype=dtype, memory_format=layout)
    weight, bias, grad_mean = torch.empty(128), torch.empty(128), torch.empty(2, 64)
    y, mean, _, rstd, _ = op.batch_norm_glu_forward(x, weight, bias, None, None, None, 1e-5, True)
    op.batch_norm_glu_backward(y, grad_mean, x, weight, bias, mean, rstd, True, True, None, 0)
    y, mean, _, rstd, _ = op.batch_norm_glu_forward(x, weight, bias, x, None, None, 1e-5, False)
    op.batch_norm_glu_backward(y, None, x, weight, bias, mean, rstd, False, True, None, 0)


def launch_upsample(dtype, layout):
    from dmgan_fast.kernels import upsample_conv3x3 as op

    x = torch.empty(2, 64, 64, 64, dtype=dtype, memory_format=layout)
    weight = torch.empty(128, 64, 3, 3, dtype=dtype)
    y = op.upsample_conv3x3_forward(x, weight)
    op.upsample_conv3x3_backward(y, x, weight, True, True)


def launch_words(dtype, _):
    from dmgan_fast.kernels import words_similarity as op

    regions, words = torch.empty(4, 256, 289, dtype=dtype), torch.empty(4, 256, 18, dtype=dtype)
    lengths = torch.empty(4, dtype=torch.int64)
    scores = op.words_similarity_forward(regions, words, lengths, 4.0, 5.0)
    op.words_similarity_backward(scores, scores, regions, words, lengths, 4.0, 5.0)


WITH_PRODUCTS = {
    launch_upsample: {"_forward_kernel", "_grad_x_kernel", "_grad_weight_kernel"},
    launch_words: {
        "_logits_kernel", "_context_kernel", "_attention_backward_kernel", "_grad_regions_kernel", "_grad_words_kernel"
    },
}  # fmt: skip

NCHW, NHWC = torch.contiguous_format, torch.channels_last
CASES = [
    (launch_batch_norm, "sm_80", torch.bfloat16, NHWC),
    (launch_batch_norm, "sm_100", torch.float32, NCHW),
    (launch_batch_norm, "gfx942", torch.float16, NHWC),
    (launch_upsample, "sm_80", torch.bfloat16, NHWC),
    (launch_upsample, "sm_80", torch.float32, NCHW),
    (launch_upsample, "sm_90", torch.float16, NCHW),
    (launch_upsample, "sm_100", torch.bfloat16, NHWC),
    (launch_upsample, "gfx942", torch.bfloat16, NCHW),
    (launch_words, "sm_80", torch.bfloat16, NCHW),
    (launch_words, "sm_90", torch.float32, NCHW),
    (launch_words, "gfx942", torch.float16, NCHW),
]


@pytest.mark.parametrize(("launch", "target", "dtype", "layout"), CASES)
def test_kernels_stay_in_registers_and_use_tensor_cores(launch, target, dtype, layout):
    kernels = compile_launches(launch, dtype, layout, target=target)
    assert kernels
    for kernel in kernels:
        assert kernel.local_bytes == 0, kernel
        assert kernel.shared_bytes <= SHARED_BYTES[target], kernel
    if launch in WITH_PRODUCTS:
        names = {kernel.kernel for kernel in kernels}
        assert names >= WITH_PRODUCTS[launch]
        if dtype != torch.float32:
            assert {kernel.kernel for kernel in kernels if kernel.tensor_core} == WITH_PRODUCTS[launch]
