"""A block computed tile by tile against the plain one: results, gradients, running statistics."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast import functional, reference
from dmgan_fast.errors import BackendError, InputError
from dmgan_fast.reference import BatchNorm
from tests.ops.harness import DTYPES, FORWARD_BUDGET, GRADIENT_BUDGET, relative_error

KINDS = ("glu", "upsample", "skip", "narrow skip", "head")
I, C = 6, 10  # noqa: E741


def block(kind, dtype=torch.float64, size=(2, 9, 7), seed=0):
    """Tensors to differentiate, and what is passed as it is."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    batch, height, width = size
    tensors = {"x": normal(batch, I, height, width), "conv_weight": normal(2 * C, I, 3, 3) / 7}
    if "skip" in kind:
        tensors["skip"] = normal(batch, C if kind == "skip" else C // 2, height, width)
        tensors["conv_weight"] = tensors["conv_weight"][:C].clone()
    if kind == "head":
        tensors["head_weight"] = normal(3, C, 3, 3) / 9
    channels = len(tensors["conv_weight"])
    tensors |= {"weight": 1 + normal(channels) / 4, "bias": normal(channels)}
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {k: v.to(wide if k in ("weight", "bias") else dtype).requires_grad_() for k, v in tensors.items()}
    running = {"running_mean": normal(channels).to(wide), "running_var": 1 + normal(channels).abs().to(wide)}
    if "skip" in kind:
        return tensors, running, {}
    return tensors, running, {"upsample": kind in ("upsample", "head"), "return_mean": kind != "head"}


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


def test_only_the_input_is_kept_for_backward():
    tensors, running, options = block("upsample", torch.float32, size=(2, 16, 16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        functional.tiled_glu(**tensors, **running, **options, training=True)
    of_pictures = [t for t in kept if t.dim() == 4 and t.shape[1] != I]
    assert not of_pictures, [t.shape for t in of_pictures]
    assert any(t is tensors["x"] or t.data_ptr() == tensors["x"].data_ptr() for t in kept)


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


def test_under_autocast_the_tiles_are_half_and_the_parameters_gradients_are_not():
    tensors, running, options = block("upsample", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = functional.tiled_glu(**tensors, **running, **options, training=True)
    assert y.dtype == torch.bfloat16
    grads = torch.autograd.grad(y.float().sum(), list(tensors.values()))
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


def test_second_derivatives_are_refused():
    tensors, running, options = block("glu", torch.float32)
    y, _ = functional.tiled_glu(**tensors, **running, **options, training=True)
    (grad,) = torch.autograd.grad(y.square().sum(), [tensors["x"]], create_graph=True)
    with pytest.raises(BackendError, match="second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3}, r"rows must be at least 4 .* got 3"),
        ({"head_weight": torch.ones(3, 7, 3, 3)}, r"head_weight must have shape \[O, 10, 3, 3\], got \[3, 7, 3, 3\]"),
        ({"head_weight": torch.ones(3, C, 3, 3)}, "there is no mean of y"),
        ({"conv_weight": torch.ones(5, I, 3, 3)}, r"weight must have shape \[5\], got \[20\]"),
        ({"conv_weight": torch.ones(5, I, 3, 3), "weight": None, "bias": None}, "running_mean must have shape"),
        ({"training": False, "running_mean": None}, "evaluation needs running_mean"),
        ({"x": torch.ones(1, I, 1, 1)}, "one value per channel has no variance"),
    ],
)
def test_bad_input_is_named(change, message):
    tensors, running, options = block("glu", torch.float32)
    with pytest.raises(InputError, match=f"tiled_glu: .*{message}"):
        functional.tiled_glu(**(tensors | running | options | {"training": True} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3}, r"rows must be at least 4 .* got 3"),
        ({"skip": torch.ones(2, 3, 9, 7)}, "skip's channels must divide 10, got 3"),
        ({"skip": torch.ones(2, 10, 9, 8)}, r"skip must have shape \[2, K, 9, 7\], got \[2, 10, 9, 8\]"),
        ({"conv_weight": torch.ones(5, I, 3, 3)}, r"weight must have shape \[5\], got \[10\]"),
        ({"training": False, "running_var": None}, "evaluation needs running_mean"),
    ],
)
def test_bad_input_of_a_block_with_a_skip_is_named(change, message):
    tensors, running, options = block("skip", torch.float32)
    with pytest.raises(InputError, match=f"tiled_skip: .*{message}"):
        functional.tiled_skip(**(tensors | running | options | {"training": True} | change))


@pytest.mark.parametrize("rows", [4, 5, 64])
def test_no_number_comes_from_the_host(rows, monkeypatch):
    """Copying one waits for the device, and a CUDA graph can't hold it."""
    tensors, running, options = block("glu")
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a tensor was made on the host"))
    outputs = functional.tiled_glu(**tensors, **running, **options, rows=rows, training=True)
    torch.autograd.grad(outputs[0].sum(), list(tensors.values()))
