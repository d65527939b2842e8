"""What the memory ops' Triton kernels need of a GPU, read from the binaries as the ops launch them."""

import pytest
import torch

from .launches import NCHW, NHWC, memory_read, memory_write
from .offline import FEW_BYTES, SHARED_BYTES, TARGETS, Binary, compile_launches


def assert_within_budget(binaries: list[Binary], dtype: torch.dtype) -> None:
    for binary in binaries:
        assert binary.local_bytes == 0, f"spills: {binary}"
        assert binary.shared_bytes <= SHARED_BYTES[binary.target], binary
        if dtype != torch.float32 and "add" not in binary.kernel:
            assert binary.tensor_core, f"no tensor cores: {binary}"


# Every width, dtype, layout and GPU at least once; one compilation takes seconds.
READS = [
    (torch.bfloat16, 32, NCHW, "sm_80"),
    (torch.float16, 32, NHWC, "sm_90"),
    (torch.float32, 32, NHWC, "sm_100"),
    *((torch.bfloat16, 64, NHWC, target) for target in TARGETS),
    (torch.float16, 64, NCHW, "sm_80"),
    (torch.float32, 64, NHWC, "sm_90"),
    (torch.float32, 64, NCHW, "sm_80"),
    (torch.bfloat16, 96, NCHW, "sm_80"),
    (torch.float16, 96, NHWC, "sm_90"),
    (torch.float32, 96, NCHW, "sm_90"),
    (torch.float32, 96, NHWC, "sm_100"),
    (torch.float16, 160, NHWC, "sm_80"),
    (torch.bfloat16, 256, NCHW, "gfx942"),
    (torch.float32, 160, NCHW, "sm_90"),
    *((dtype, channels, NCHW, "gfx942") for dtype in (torch.float16, torch.float32) for channels in (32, 64, 96)),
    *((dtype, channels, NHWC, "gfx942") for dtype in (torch.bfloat16, torch.float32) for channels in (32, 96)),
    (torch.float32, 64, NHWC, "gfx942"),
]


@pytest.mark.parametrize(("dtype", "channels", "layout", "target"), READS, ids=str)
def test_read_spills_nothing_and_uses_tensor_cores(dtype, channels, layout, target):
    binaries = compile_launches(memory_read, dtype, layout, channels, target=target)
    assert [binary.kernel for binary in binaries] == ["_forward_kernel", "_backward_kernel", *["_add_kernel"] * 2]
    assert_within_budget(binaries, dtype)


def test_captions_that_fill_registers_spill_nothing_and_longer_ones_launch_no_kernel():
    binaries = compile_launches(memory_read, torch.bfloat16, NCHW, 64, 31, target="sm_80")  # and the gate
    assert_within_budget(binaries, torch.bfloat16)
    assert len(binaries) == 4
    assert compile_launches(memory_read, torch.bfloat16, NCHW, 64, 32, 1, 8, target="sm_80") == []


@pytest.mark.parametrize(
    ("dtype", "channels", "target"),
    [
        (torch.bfloat16, 64, "sm_80"),
        (torch.float16, 96, "sm_100"),
        (torch.float32, 32, "sm_90"),
        (torch.float32, 64, "gfx942"),
    ],
    ids=str,
)
def test_write_spills_nothing_and_uses_tensor_cores(dtype, channels, target):
    binaries = compile_launches(memory_write, dtype, NCHW, channels, target=target)
    assert [binary.kernel for binary in binaries] == ["_forward_kernel", "_backward_kernel"]
    assert_within_budget(binaries, dtype)


@pytest.mark.parametrize(
    ("launch", "layout", "channels", "target"),
    [(memory_read, NCHW, 64, "sm_89"), (memory_read, NHWC, 96, "sm_90"), (memory_write, NCHW, 64, "sm_80")],
)
def test_tf32_fits_every_gpu_and_uses_tensor_cores(launch, layout, channels, target):
    binaries = compile_launches(launch, torch.float32, layout, channels, target=target, tf32=True)
    for binary in binaries:
        assert binary.local_bytes <= FEW_BYTES, binary
        assert binary.shared_bytes <= SHARED_BYTES[target], binary
        assert binary.tensor_core or "add" in binary.kernel, binary
