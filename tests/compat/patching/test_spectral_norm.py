"""Others' spectral norm, patched."""

import copy

import pytest
import torch

from dmgan_fast.compat import patch
from tests.compat.patched import EXACT, built, close, inputs, weighted, whats
from tests.compat.standins import Judge


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ten_steps_of_a_patched_discriminator_are_its_own(dtype):
    """Two forwards before a backward, as a discriminator's step has them: the wrapper's vectors move in between."""
    plain = built(Judge, dtype)
    fast = copy.deepcopy(plain)
    handle = patch(fast)
    assert whats(handle)["spectral norm of a convolution"] == 3
    optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.05) for m in (plain, fast)]
    tolerance = EXACT if dtype == torch.float64 else 2e-4
    for step in range(10):
        real, drawn = (
            torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2 * step + k)).to(dtype) for k in (0, 1)
        )
        sentence = inputs(dtype, seed=step)[1][:1].expand(4, -1)
        for model, optimizer in zip((plain, fast), optimizers, strict=True):
            optimizer.zero_grad()
            model.input = drawn.clone().requires_grad_()
            results = [*model(real, sentence), *model(model.input, sentence)]
            weighted(results).backward()
            model.seen = torch.cat([r.detach() for r in results])
        close(fast.seen, plain.seen, tolerance)
        close(fast.input.grad, plain.input.grad, tolerance)
        close(grads_of_trained(fast), grads_of_trained(plain), tolerance)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        close(one.detach(), other.detach(), 10 * tolerance)


def grads_of_trained(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_gradient_penalty_through_patched_spectral_norms_is_the_same():
    plain = built(Judge)
    fast = copy.deepcopy(plain)
    patch(fast)
    penalties = []
    for model in (plain, fast):
        images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        images.requires_grad_()
        logits = model(images, inputs()[1][:2])
        (gradient,) = torch.autograd.grad(weighted(logits), images, create_graph=True)
        gradient.square().sum().backward()
        penalties.append(grads_of_trained(model))
    close(*penalties)
