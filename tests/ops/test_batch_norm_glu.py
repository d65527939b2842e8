"""batch_norm_glu and PyTorch's batch norm."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dmgan_fast.ops import _backends
from dmgan_fast.ops.batch_norm_glu import update_running
from dmgan_fast.reference import BatchNorm
from tests.ops.arguments import C, call, norm_arguments


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv(_backends.VARIABLE, raising=False)


@pytest.mark.parametrize(("training", "tracked"), [(True, True), (True, False), (False, True)])
def test_norm_and_running_statistics_equal_batchnorm2d(training, tracked):
    module = nn.BatchNorm2d(2 * C, momentum=0.3, eps=1e-3, track_running_stats=tracked).double().train(training)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    a = norm_arguments() | {"weight": module.weight, "bias": module.bias, "training": training}
    if not tracked:
        a["running_mean"] = a["running_var"] = None
    found = call("batch_norm_glu", a, momentum=0.3, eps=1e-3)
    value, gate = module(a["x"]).chunk(2, 1)
    torch.testing.assert_close(found, value * gate.sigmoid())
    if tracked:
        assert torch.equal(a["running_mean"], module.running_mean)
        assert torch.equal(a["running_var"], module.running_var)


class Operators(TorchDispatchMode):
    """The names of those called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_both_running_statistics_are_updated_by_three_operators():
    """Each is a launch on a GPU."""
    running, mean, var = (torch.zeros(4), torch.ones(4)), torch.full((4,), 2.0), torch.full((4,), 3.0)
    with Operators() as operators:
        update_running(BatchNorm(None, None, *running, training=True), mean, var, 10, None)
    assert operators.names == ["mul", "_foreach_mul_", "_foreach_add_"]
    torch.testing.assert_close(running, (torch.full((4,), 0.2), torch.full((4,), 0.9 + 0.3 * 10 / 9)))


def test_a_norm_may_keep_one_running_statistic():
    running_mean = torch.zeros(4)
    update_running(BatchNorm(None, None, running_mean, None, training=True), torch.ones(4), torch.ones(4), 10, None)
    torch.testing.assert_close(running_mean, torch.full((4,), 0.1))
