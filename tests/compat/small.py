"""A small model of patched parts, and the classes of its modules."""

import torch
from torch import nn

from tests.compat import standins
from tests.compat.patched import built


def kinds(model):
    return [type(m) for m in model.modules()]


def small():
    return built(
        lambda: nn.Sequential(standins.up_block(2, 2), standins.Res(2), standins.Normed(standins.conv3x3(2, 2, True))),
        torch.float32,
    )
