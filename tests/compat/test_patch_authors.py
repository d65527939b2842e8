"""The authors' own networks, losses and trainers' steps, patched and not, from checkouts of their code.

``DMGAN_AUTHORS=PATH ATTNGAN_AUTHORS=PATH pytest tests/compat/test_patch_authors.py``; none of that code is kept here,
so without a checkout these are skipped, and the stand-ins in ``patching/`` prove the same.
"""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.harness import error
from benchmarks.models import batch_of
from benchmarks.patched import PATCHED, PLAIN, build, setting_of
from tests.compat.patched import EXACT, GRADIENTS, RESULTS

CHECKOUTS = {name: os.environ.get(f"{name}_AUTHORS") for name in ("DMGAN", "ATTNGAN")}
STEPS = 10


@pytest.fixture(params=CHECKOUTS)
def authors(request):
    if not CHECKOUTS[request.param]:
        pytest.skip(f"{request.param}_AUTHORS names no checkout of the authors' code")
    return Path(CHECKOUTS[request.param])


def narrow(authors):
    whole = setting_of(authors)
    generator = replace(
        whole.generator, base_channels=4, word_channels=16, condition_channels=8, noise_channels=8, residual_blocks=1
    )
    data = replace(whole.train.data, max_words=6)
    return replace(whole, batch=2).changed(generator=generator, discriminator_channels=4, data=data)


def models_of(step):
    return [step.generator, *step.discriminators, step.encoder]


def steps_of(authors, dtype):
    setting = narrow(authors)
    steps = {name: build(authors, setting, name == PATCHED) for name in (PLAIN, PATCHED)}
    for step in steps.values():
        for model in models_of(step):
            model.to(dtype)
    return steps


def optimizers(step):
    return [step.optimizer, *step.optimizers]


def state(step):
    models = [{k: v.clone() for k, v in model.state_dict().items()} for model in models_of(step)]
    return models, [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers(step)]


def restore(step, saved):
    for model, tensors in zip(models_of(step), saved[0], strict=True):
        model.load_state_dict(tensors)
    for optimizer, tensors in zip(optimizers(step), saved[1], strict=True):
        optimizer.load_state_dict(copy.deepcopy(tensors))  # which keeps the tensor that counts steps as it is


def take(step, setting, dtype, number):
    """Pictures, and the gradients of all networks, of one step."""
    torch.manual_seed(number)
    inputs = batch_of(setting, dtype=dtype)
    images = step(**inputs | {"noise": inputs["noise"] + number})
    grads = [p.grad for model in models_of(step) for p in model.parameters() if p.grad is not None]
    return torch.cat([i.flatten() for i in images]).double(), torch.cat([g.flatten() for g in grads]).double()


def test_ten_steps_are_the_authors_in_float64_and_within_the_budgets_in_float32(authors):
    setting = narrow(authors)
    wide, single = steps_of(authors, torch.float64), steps_of(authors, torch.float32)
    errors = {PLAIN: [], PATCHED: []}
    for number in range(STEPS):
        start = state(wide[PLAIN])
        images, grads = take(wide[PLAIN], setting, torch.float64, number)
        our_images, our_grads = take(wide[PATCHED], setting, torch.float64, number)
        assert error(our_images, images) <= EXACT
        assert error(our_grads, grads) <= EXACT
        for name, step in single.items():  # each step from the weights in float64: only its own error counts
            restore(step, start)
            found = take(step, setting, torch.float32, number)
            errors[name].append((error(found[0], images), error(found[1], grads)))
    for eager, ours in zip(errors[PLAIN], errors[PATCHED], strict=True):
        assert ours[0] <= RESULTS * eager[0]
        assert ours[1] <= GRADIENTS * eager[1]
    weights = [torch.cat([p.detach().flatten() for m in models_of(s) for p in m.parameters()]) for s in wide.values()]
    assert error(weights[1], weights[0]) <= EXACT
