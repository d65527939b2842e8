"""batch_norm_glu and PyTorch's batch norm."""

import pytest
import torch
from torch import nn

from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends
from tests.ops.arguments import C, call, norm_arguments


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv(_backends.VARIABLE, raising=False)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_running_statistics_that_are_a_negated_view_are_refused(backend, name):
    """PyTorch's updates in place fail there, or are lost."""
    a = {key: x.float() if isinstance(x, torch.Tensor) else x for key, x in norm_arguments().items()}
    a[name] = torch._neg_view(a[name])
    with pytest.raises(InputError, match=f"{name} is a negated view"):
        call("batch_norm_glu", a | {"training": True}, backend=backend)


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
