"""Convolutions to compare with float64."""

import torch

from tests.ops.harness import Case

GENERATOR = torch.Generator().manual_seed(0)


def case(batch, in_channels, out_channels, height, width, layout="contiguous", op="conv3x3", bias=False):
    side = 4 if op == "conv4x4_stride2" else 3
    x = torch.randn(batch, in_channels, height, width, dtype=torch.float64, generator=GENERATOR)
    weight = torch.randn(out_channels, in_channels, side, side, dtype=torch.float64, generator=GENERATOR)
    tensors = {"x": x, "weight": weight * (side**2 * in_channels) ** -0.5}
    if bias:
        tensors["bias"] = torch.randn(out_channels, dtype=torch.float64, generator=GENERATOR)
    return Case(op, tensors, layout=layout, pictures=("x",))
