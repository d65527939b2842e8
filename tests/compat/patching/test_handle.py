"""Others' models, patched: they compute the same, step after step, on the fused ops, and keep their objects."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import error
from dmgan_fast.compat import patch
from dmgan_fast.compat.patching import classes
from dmgan_fast.errors import InputError
from tests.compat.patched import (
    EXACT,
    GRADIENTS,
    RESULTS,
    STRUCTURES,
    built,
    close,
    flat,
    gradients,
    inputs,
    snapshot,
    weighted,
)
from tests.compat.small import kinds, small
from tests.compat.standins import DMGAN, AttnGAN, Encoder, Judge


@pytest.mark.parametrize("name", STRUCTURES)
def test_ten_steps_of_a_patched_model_are_those_of_the_model_in_float64(name):
    plain = built(STRUCTURES[name])
    fast = copy.deepcopy(plain)
    patch(fast)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (plain, fast)]
    for step in range(10):
        given = inputs(seed=step)
        for model, optimizer in zip((plain, fast), optimizers, strict=True):
            optimizer.zero_grad()
            model.results = flat(model(*given))
            weighted(model.results).backward()
        for one, other in zip(fast.results, plain.results, strict=True):
            close(one, other)
        largest = max(p.grad.abs().max() for p in plain.parameters())
        for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
            assert (one.grad - other.grad).abs().max() <= EXACT * largest
        for optimizer in optimizers:
            optimizer.step()
    for (key, one), other in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=EXACT, atol=EXACT), key
    plain.eval(), fast.eval()
    for one, other in zip(flat(fast(*given)), flat(plain(*given)), strict=True):
        close(one, other)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_patched_model_keeps_the_error_budgets_in_float32(name):
    """Against float64, in which the model is not patched; a float32 step later starts from the float64 weights."""
    truth = built(STRUCTURES[name])
    plain = built(STRUCTURES[name], torch.float32)
    fast = copy.deepcopy(plain)
    handle = patch(fast)
    assert handle.report().replaced
    found = []
    for model, dtype in ((truth, torch.float64), (plain, torch.float32), (fast, torch.float32)):
        results = flat(model(*inputs(dtype)))
        weighted(results).backward()
        found.append((torch.cat([r.detach().flatten() for r in results]), gradients(model)))
    (exact, exact_grads), (eager, eager_grads), (ours, our_grads) = found
    assert error(ours, exact.double()) <= RESULTS * error(eager, exact.double())
    assert error(our_grads, exact_grads.double()) <= GRADIENTS * error(eager_grads, exact_grads.double())


def saved_bytes(model, given):
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        results = flat(model(*given))
    assert results
    return sum(storages.values())


def test_a_patched_generator_keeps_at_most_half_for_backward():
    model = built(DMGAN, torch.float32)
    before = saved_bytes(model, inputs(torch.float32))
    with patch(model):
        assert saved_bytes(model, inputs(torch.float32)) <= 0.5 * before
    assert saved_bytes(model, inputs(torch.float32)) == before


def test_a_patch_under_autocast_keeps_the_budget():
    plain = built(AttnGAN, torch.float32)
    fast = copy.deepcopy(plain)
    patch(fast)
    truth = flat(plain(*inputs(torch.float32)))[1].double()
    with torch.autocast("cpu", torch.bfloat16):
        one, other = (flat(m(*inputs(torch.float32)))[1].double() for m in (fast, plain))
    assert error(one, truth) <= RESULTS * error(other, truth)


def test_a_patch_keeps_every_object_and_name():
    model = built(DMGAN, torch.float32)
    before = snapshot(model)
    names = {name: type(m).__name__ for name, m in model.named_modules()}
    handle = patch(model)
    assert handle.report().replaced
    assert snapshot(model)[1:] == before[1:]
    assert {name: type(m).__name__ for name, m in model.named_modules()} == names
    assert all(isinstance(m, kind) for m, kind in zip(model.modules(), before[0], strict=True))
    handle.unpatch()
    assert snapshot(model) == before


def test_a_patched_model_in_ddp_learns_as_the_model():
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        plain = built(AttnGAN)
        fast = copy.deepcopy(plain)
        patch(fast)
        for model in (plain, DistributedDataParallel(fast)):
            weighted(flat(model(*inputs()))[1:]).backward()
        for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
            if other.grad is not None:
                close(one.grad, other.grad, 1e-8)
    finally:
        distributed.destroy_process_group()


def test_patching_leaves_random_numbers_and_modes_as_they_were():
    model = built(DMGAN)
    state, training = torch.random.get_rng_state(), [m.training for m in model.modules()]
    values = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        patch(nn.ModuleList([model, built_quietly(Judge), built_quietly(Encoder)]))
    assert [m.training for m in model.modules()] == training
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def built_quietly(make):
    with torch.random.fork_rng():
        return built(make)


@pytest.mark.parametrize("target", [None, 3, [], ["model"], F.relu])
def test_other_targets_are_refused(target):
    with pytest.raises(InputError, match=r"patch: target must be an nn\.Module, a Python module or several"):
        patch(target)


def test_a_patch_is_undone_once_and_for_all():
    model = small()
    plain = kinds(model)
    handle = patch(model)
    assert kinds(model) != plain
    assert "in force" in repr(handle)
    handle.unpatch()
    handle.unpatch()
    assert kinds(model) == plain
    assert "undone" in repr(handle)
    assert handle.report().replaced, "the report stays"


def test_a_patch_ends_with_its_block_also_by_an_error():
    model = small()
    plain = kinds(model)

    def fails():
        with patch(model):
            assert kinds(model) != plain
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert kinds(model) == plain


def test_a_patch_outlives_its_handle():
    model = small()
    patch(model)
    gc.collect()
    assert any(classes.is_fast(m) for m in model.modules())


def test_a_patch_that_fails_leaves_nothing(monkeypatch):
    model = nn.ModuleList([small(), small()])
    plain, calls = kinds(model), []

    def fails_late(*given):
        calls.append(given)
        if len(calls) > 1:
            raise MemoryError
        return original(*given)

    from dmgan_fast.compat.patching import handle as module

    original = module.patch_tree
    monkeypatch.setattr(module, "patch_tree", fails_late)
    with pytest.raises(MemoryError):
        patch(list(model))
    assert kinds(model) == plain
