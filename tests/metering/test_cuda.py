"""What a GPU holds beside tensors, by examples computed by hand."""

import pytest
import torch

from dmgan_fast.metering.cuda import MiB, block_bytes, workspace_bytes
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.metering.meter import Meter

aten = torch.ops.aten
GEOMETRY = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


@pytest.mark.parametrize(
    ("size", "block"),
    [
        (0, 0),
        (1, 512),
        (512, 512),
        (513, 1024),
        (3 * MiB, 3 * MiB),
        (10 * MiB, 10 * MiB),
        (10 * MiB + 1, 10 * MiB + 512),  # nearly 2 MiB are left over, which another tensor may have
        (11 * MiB, 12 * MiB),  # 1 MiB is not given away
        (11 * MiB + 1, 12 * MiB),
    ],
)
def test_a_tensor_takes_the_block_that_pytorchs_allocator_gives_it(size, block):
    assert block_bytes(size) == block


def test_a_meter_for_a_gpu_counts_blocks():
    with Dataless():
        tensors = [torch.empty(1), torch.empty(100, 3)]
    for device, expected in (("cpu", 4 + 1200), ("cuda", 512 + 1536)):
        meter = Meter(device)
        meter.mark(tensors, "weights")
        assert meter.now["weights"] == expected


def tensors(layout, dtype):
    """x, weight and result of a 3×3 convolution: 2 · 8 · 16² , 4 · 8 · 9 and 2 · 4 · 16² numbers."""
    sizes = (2, 8, 16, 16), (4, 8, 3, 3), (2, 4, 16, 16)
    return [torch.empty(size, dtype=dtype, device="meta").contiguous(memory_format=layout) for size in sizes]


@pytest.mark.parametrize("by_trial", [False, True])
@pytest.mark.parametrize(
    ("layout", "dtype", "forward", "backward"),
    [
        (torch.channels_last, torch.bfloat16, 0, 4 * 288),  # the weight's gradient is summed in float32
        (torch.contiguous_format, torch.float32, 4 * (4096 + 288 + 2048), 4 * (4096 + 288 + 2048)),  # copies
    ],
)
def test_workspaces_are_those_of_the_kernels_that_cudnn_takes(layout, dtype, forward, backward, by_trial):
    x, weight, y = tensors(layout, dtype)
    # 36 numbers of a tile for 16 of its pixels, in both maps, and for each pair of channels.
    tiles = 4 * (2 * 16**2 * (8 + 4) * 36 // 16 + 36 * 8 * 4) if by_trial else 0
    given = (x, weight, None, *GEOMETRY)
    assert workspace_bytes(aten.convolution.default, given, y, by_trial) == max(forward, tiles)
    given = (y, x, weight, None, *GEOMETRY, [True, True, False])
    assert workspace_bytes(aten.convolution_backward.default, given, None, by_trial) == max(backward, tiles)


def test_a_gradient_of_x_alone_sums_nothing():
    x, weight, y = tensors(torch.channels_last, torch.bfloat16)
    given = (y, x, weight, None, *GEOMETRY, [True, False, False])
    assert workspace_bytes(aten.convolution_backward.default, given, None, False) == 0
    assert workspace_bytes(aten.add.Tensor, (x, x), x, True) == 0
