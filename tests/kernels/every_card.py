"""Every Triton kernel compiled for every GPU, in every precision and layout. Minutes long, so it runs only when named:
``python -m pytest tests/kernels/every_card.py``, as ``make check-oldest`` does with the oldest Triton.
"""

from importlib.metadata import version

import pytest
import torch

from tests.kernels import launches
from tests.kernels.launches import NCHW, NHWC
from tests.kernels.offline import FEW_BYTES, SHARED_BYTES, compile_launches

REFUSED = tuple(map(int, version("triton").split(".")[:2])) < (3, 8)  # as ops/_backends.py has it
CHANNELS = 64  # of the memory ops at birds and flowers settings
LAUNCHES = [
    (launches.memory_write, NCHW, CHANNELS),
    *((launches.memory_read, layout, CHANNELS) for layout in (NCHW, NHWC)),
    *((launches.batch_norm_glu, layout) for layout in (NCHW, NHWC)),
    *((launches.upsample_conv3x3, layout) for layout in (NCHW, NHWC)),
    (launches.words_similarity, NCHW),
]
PRECISIONS = {
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
}


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_90", "sm_100"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: f"{launch[0].__name__}-{launch[1]}")
def test_kernels_compile_and_fit(launch, precision, target):
    function, layout, *sizes = launch
    dtype, tf32 = PRECISIONS[precision]
    arguments = function, dtype, layout, *sizes
    if REFUSED and function is launches.memory_read and target == "sm_100" and dtype != torch.float32:
        with pytest.raises(RuntimeError, match="PassManager"):  # and so the backend refuses it
            compile_launches(*arguments, target=target)
        return
    kernels = compile_launches(*arguments, target=target, tf32=tf32)
    assert kernels
    for kernel in kernels:
        assert kernel.local_bytes <= FEW_BYTES, kernel
        assert kernel.shared_bytes <= SHARED_BYTES[target], kernel
    if function is not launches.batch_norm_glu and precision != "fp32":
        assert any(kernel.tensor_core for kernel in kernels)
