"""A block computed tile by tile against the plain one: results, gradients, running statistics."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast import functional, reference
from dmgan_fast.reference import BatchNorm
from tests.ops.harness import DTYPES, FORWARD_BUDGET, GRADIENT_BUDGET, relative_error
from tests.ops.tiled import block

KINDS = ("glu", "upsample", "skip", "narrow skip", "head")


def tiled(kind):
    return functional.tiled_skip if "skip" in kind else functional.tiled_glu


def plain(x, conv_weight, *norm, training, momentum, skip=None, return_mean=False, **options):
    """The reference, called as the op is."""
    norm = BatchNorm(*norm, training, momentum)
    if skip is not None:
        return reference.tiled_skip(x, conv_weight, norm, skip)
    y = reference.tiled_glu(x, conv_weight, norm, **options)
    return (y, y.mean((2, 3))) if return_mean else y


def run(function, tensors, running, options, training=True):
    """Results with their running statistics, and gradients of a fixed projection of the results."""
    running = {name: value.to(tensors["weight"].dtype, copy=True) for name, value in running.items()}
    order = ("x", "conv_weight", "weight", "bias")
    others = {name: x for name, x in tensors.items() if name not in order}
    inputs = [*(tensors[name] for name in order), *running.values()]
    outputs = function(*inputs, **others, **options, training=training, momentum=0.3)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    draw = torch.Generator().manual_seed(1)
    projections = [torch.randn(y.shape, generator=draw, dtype=torch.float64).to(y.dtype) for y in outputs]
    grads = torch.autograd.grad(outputs, list(tensors.values()), projections)
    return [*outputs, *running.values()], dict(zip(tensors, grads, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [4, 5, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_give_the_plain_block_in_float64(kind, rows, training):
    tensors, running, options = block(kind)
    truth, true_grads = run(plain, tensors, running, options, training)
    found, grads = run(tiled(kind), tensors, running, options | {"rows": rows}, training)
    for ours, true in (*zip(found, truth, strict=True), *((grads[k], true_grads[k]) for k in grads)):
        assert ours.shape == true.shape
        assert relative_error(ours, true) <= 1e-12


def untiled(x, conv_weight, *norm, training, momentum, upsample=False, head_weight=None, skip=None, return_mean=False):
    """The block of the ops it is made of. Up-sampling sums taps before it rounds them to half precision."""
    z = functional.upsample_conv3x3(x, conv_weight) if upsample else F.conv2d(x, conv_weight, padding=1)
    y = reference.batch_norm_glu(z, BatchNorm(*norm, training, momentum), skip)
    y = y if head_weight is None else torch.tanh(F.conv2d(y, head_weight, padding=1))
    return (y, y.mean((2, 3))) if return_mean else y


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_on_the_cpu_tiles_are_as_exact_as_eager(kind, dtype, layout):
    check_exactness(kind, dtype, layout, "cpu", "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_weight_and_bias_of_the_norm_may_be_float64(kind):
    tensors, running, options = block(kind, torch.float32)
    wide = tensors | {name: tensors[name].detach().double().requires_grad_() for name in ("weight", "bias")}
    (found, grads), (same, same_grads) = (run(tiled(kind), each, running, options) for each in (wide, tensors))
    for ours, true in zip(found, same, strict=True):
        torch.testing.assert_close(ours, true, check_dtype=False)
    for name, grad in grads.items():
        assert grad.dtype == wide[name].dtype
        torch.testing.assert_close(grad, same_grads[name], check_dtype=False)


@pytest.mark.parametrize("kind", KINDS)
def test_on_every_backend_tiles_are_as_exact_as_eager(kind, backend):
    check_exactness(kind, torch.float32, torch.channels_last, backend, backend.device)


def check_exactness(kind, dtype, layout, backend, device):
    tensors, running, options = block(kind, dtype)
    for name in ("x", "skip"):
        if name in tensors:
            tensors[name] = tensors[name].detach().contiguous(memory_format=layout).requires_grad_()
    tensors = {name: x.detach().to(device).requires_grad_() for name, x in tensors.items()}
    running = {name: x.to(device) for name, x in running.items()}
    exact = {name: x.detach().cpu().double().requires_grad_() for name, x in tensors.items()}
    truth, true_grads = run(plain, exact, running, options)
    eager, eager_grads = run(untiled, tensors, running, options)
    found, grads = run(tiled(kind), tensors, running, options | {"rows": 4, "backend": backend})
    floor = sorted(relative_error(a, b) for a, b in zip(eager, truth, strict=True))[len(eager) // 2]
    pairs = [(FORWARD_BUDGET, *each) for each in zip(found, eager, truth, strict=True)]
    pairs += [(GRADIENT_BUDGET, grads[k], eager_grads[k], true_grads[k]) for k in grads]
    for budget, ours, theirs, true in pairs:
        assert ours.dtype == theirs.dtype
        allowed = budget * max(relative_error(theirs, true), floor) + torch.finfo(ours.dtype).eps
        assert relative_error(ours, true) <= allowed


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_without_graph_breaks_it_gives_the_same(kind):
    tensors, running, options = block(kind, torch.float32)
    expected, expected_grads = run(tiled(kind), tensors, running, options)
    compiled = torch.compile(tiled(kind), fullgraph=True, backend="aot_eager")
    found, grads = run(compiled, tensors, running, options)
    results = len(expected) - len(running)
    assert all(torch.equal(a, b) for a, b in zip(found[:results], expected[:results], strict=True))
    # The compiler of torch 2.11 rounds the update of running statistics twice.
    torch.testing.assert_close(found[results:], expected[results:], rtol=1e-6, atol=1e-6)
    assert all(torch.equal(grads[k], expected_grads[k]) for k in grads)
