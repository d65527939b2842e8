"""What the compiled kernels around the convolutions and of the words loss need on each GPU, at DM-GAN's sizes."""

import pytest
import torch

from tests.kernels.launches import NCHW, NHWC, batch_norm_glu, upsample_conv3x3, words_similarity
from tests.kernels.offline import FEW_BYTES, SHARED_BYTES, compile_launches

WITH_PRODUCTS = {
    upsample_conv3x3: {"_forward_kernel", "_grad_x_kernel", "_grad_weight_kernel"},
    words_similarity: {
        "_logits_kernel", "_context_kernel", "_attention_backward_kernel", "_grad_regions_kernel", "_grad_words_kernel"
    },
}  # fmt: skip

CASES = [
    (batch_norm_glu, "sm_80", torch.bfloat16, NHWC),
    (batch_norm_glu, "sm_100", torch.float32, NCHW),
    (batch_norm_glu, "gfx942", torch.float16, NHWC),
    (upsample_conv3x3, "sm_80", torch.bfloat16, NHWC),
    (upsample_conv3x3, "sm_80", torch.float32, NCHW),
    (upsample_conv3x3, "sm_80", torch.bfloat16, NCHW),
    (upsample_conv3x3, "sm_90", torch.float16, NCHW),
    (upsample_conv3x3, "sm_90", torch.float32, NHWC),
    (upsample_conv3x3, "sm_100", torch.bfloat16, NHWC),
    (upsample_conv3x3, "sm_100", torch.float32, NHWC),
    (upsample_conv3x3, "gfx942", torch.bfloat16, NCHW),
    (words_similarity, "sm_80", torch.bfloat16, NCHW),
    (words_similarity, "sm_90", torch.float32, NCHW),
    (words_similarity, "sm_90", torch.bfloat16, NCHW),
    (words_similarity, "gfx942", torch.float16, NCHW),
]


IN_TF32 = [
    (upsample_conv3x3, "sm_80", NCHW),
    (upsample_conv3x3, "sm_89", NHWC),
    (upsample_conv3x3, "sm_90", NCHW),
    (words_similarity, "sm_90", NCHW),
]


@pytest.mark.parametrize(("launch", "target", "layout"), IN_TF32)
def test_tf32_fits_every_gpu_and_uses_tensor_cores(launch, target, layout):
    kernels = compile_launches(launch, torch.float32, layout, target=target, tf32=True)
    for kernel in kernels:
        assert kernel.local_bytes <= FEW_BYTES, kernel
        assert kernel.shared_bytes <= SHARED_BYTES[target], kernel
    assert {kernel.kernel for kernel in kernels if kernel.tensor_core} >= WITH_PRODUCTS[launch]


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
            assert {kernel.kernel for kernel in kernels if kernel.tensor_core} >= WITH_PRODUCTS[launch]
