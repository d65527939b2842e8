"""Others' image encoder, patched."""

import copy

import torch

from dmgan_fast.compat import patch
from tests.compat.patched import built, close, weighted
from tests.compat.standins import Encoder


def test_the_image_encoder_is_fast_when_frozen_and_itself_when_it_learns():
    plain = built(Encoder)
    fast = copy.deepcopy(plain)
    patch(fast)
    x = torch.randn(2, 3, 17, 17, dtype=torch.float64)
    for training, frozen in ((False, True), (False, False), (True, False)):
        found = []
        for model in (plain, fast):
            model.train(training).requires_grad_(not frozen)
            model.zero_grad()
            leaf = x.clone().requires_grad_()
            results = model(leaf)
            weighted(results).backward()
            found.append([*results, leaf.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
        for one, other in zip(*found, strict=True):
            close(one, other)
    fast.eval().requires_grad_(False)
    plain.eval().requires_grad_(False)
    leaf = x.clone().requires_grad_()
    kept = [kept_by(m, leaf) for m in (fast, plain)]
    assert kept[0] < 0.75 * kept[1]


def kept_by(model, x):
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        results = model(x)
    for tensor in (*model.state_dict().values(), x):
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    assert results
    return sum(storages.values())
