"""Which Adam is used."""

import sys
import types

import torch

from dmgan_fast.runs.config import StepConfig
from dmgan_fast.training import optimisers


def test_fused_adam_is_nvidias_where_its_apex_is_installed(monkeypatch):
    class FusedAdam:
        pass

    nvidias, another = types.ModuleType("apex.optimizers"), types.ModuleType("apex.optimizers")
    nvidias.FusedAdam = FusedAdam
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", nvidias)
    assert optimisers.apex_adam() is FusedAdam
    assert isinstance(optimisers.adam(torch.nn.Linear(2, 2), 1e-3, StepConfig()), torch.optim.Adam)  # on a CPU
    monkeypatch.setitem(sys.modules, "apex.optimizers", another)
    assert optimisers.apex_adam() is None
    monkeypatch.setitem(sys.modules, "apex.optimizers", None)
    assert optimisers.apex_adam() is None
