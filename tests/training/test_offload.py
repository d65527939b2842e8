"""Host offload keeps every bit and moves what is large."""

import torch

from dmgan_fast.modules.rematerialise import rematerialise
from dmgan_fast.training.offload import offloaded


def test_offloading_keeps_every_bit():
    results = []
    for offload in (False, True):
        torch.manual_seed(0)
        layers = torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh()) for _ in range(4))
        x = torch.randn(5, 8, requires_grad=True)
        y = x
        if offload:
            with offloaded(smallest=1):
                for layer in layers:
                    y = rematerialise(layer, y)
        else:
            for layer in layers:
                y = layer(y)
        y.square().sum().backward()
        results.append([x.grad, *(p.grad for p in layers.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_offloading_moves_what_is_large_and_no_parameter():
    from dmgan_fast.training import offload

    shelf = offload._Shelf(smallest=64)
    small, large = torch.ones(2), torch.ones(64)
    assert shelf.put(small) is small
    assert isinstance(shelf.put(torch.nn.Parameter(large)), torch.nn.Parameter)
    kept = shelf.put(large)
    large.fill_(3)  # the copy is its own memory
    assert torch.equal(shelf.get(kept), torch.ones(64))
