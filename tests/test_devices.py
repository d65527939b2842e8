"""Devices by name."""

import pytest
import torch

from dmgan_fast.devices import pick_device
from dmgan_fast.errors import InputError


def test_auto_is_a_gpu_if_there_is_one(monkeypatch):
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto") == torch.device(kind)


def test_a_gpu_that_is_not_here_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"PyTorch sees no CUDA device here, got 'cuda'"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match=r"there are 2 CUDA devices here, from 0, got 'cuda:2'"):
        pick_device("cuda:2")


def test_other_names_are_refused_with_those_allowed():
    with pytest.raises(InputError, match=r"device must be auto, cpu, cuda or cuda:N, got 'gpu'"):
        pick_device("gpu")


@pytest.mark.parametrize("name", ["meta", "mps", "xpu:1"])
def test_places_that_pytorch_knows_and_nothing_runs_on_are_refused(name):
    with pytest.raises(InputError, match=rf"device must be auto, cpu, cuda or cuda:N, got '{name}'"):
        pick_device(name)
