"""A forward that does something else is left alone."""

import torch
from torch import nn

from dmgan_fast.compat import patch
from tests.compat import standins
from tests.compat.patched import built


class Halved(standins.Res):
    def forward(self, x):
        return 0.5 * self.body(x) + x


class OtherGate(nn.Module):
    """Gates by the first half."""

    def forward(self, x):
        half = x.shape[1] // 2
        return x[:, half:] * torch.sigmoid(x[:, :half])


def test_a_changed_forward_is_left_alone_with_the_reason():
    block = built(lambda: Halved(4), torch.float32)
    handle = patch(block)
    (left,) = [e for e in handle.report().left if e.what == "residual block"]
    assert "its result differs from that of the fast form in training" in left.reason
    assert type(block) is Halved
    sequence = built(lambda: nn.Sequential(nn.BatchNorm2d(4), OtherGate()), torch.float32)
    (left,) = [e for e in patch(sequence).report().left if "activation" in e.what]
    assert "no GLU over the channels" in left.reason


def test_a_gradient_that_differs_is_enough_to_be_left_alone():
    class Detached(standins.Res):
        def forward(self, x):
            return self.body(x) + x.detach()

    (left,) = [e for e in patch(built(lambda: Detached(4))).report().left if e.what == "residual block"]
    assert "the gradient of an input" in left.reason
