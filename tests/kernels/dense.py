"""The Triton kernels around the convolutions and of the words loss, run in the sanitizer and compared with float64."""

import torch
from torch.nn import functional as F

from dmgan_fast import reference
from tests.kernels.interpreter import sanitized  # before anything imports Triton

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
FORWARD, GRADIENT = 2, 3  # times eager's error
SLACK = {torch.float32: 2e-7, torch.bfloat16: 1e-4, torch.float16: 1e-5}  # eager may be exact by luck
GAMMA1, GAMMA2 = 4.0, 5.0
EPS = 1e-5


def error(result, truth):
    return ((result.double() - truth).square().mean() / truth.square().mean()).sqrt().item()


def assert_accurate(results, eager, truth, dtype):
    """Outputs first, then gradients; ``results`` are named."""
    for (name, result), low, exact in zip(results.items(), eager, truth, strict=True):
        assert result.shape == exact.shape, name
        allowed = (GRADIENT if name.startswith("grad") else FORWARD) * error(low, exact) + SLACK[dtype]
        assert error(result, exact) <= allowed, name


def eager_and_truth(function, inputs, grads, dtype):
    """Outputs and gradients of ``function`` in ``dtype`` and in float64, on the same numbers; None passes."""

    def run(dtype):
        leaves = [None if x is None else x.to(dtype).requires_grad_() for x in map(clone, inputs)]
        outputs = function(*leaves)
        seeds = [grad.to(y.dtype) for grad, y in zip(grads, outputs, strict=True)]
        wanted = [x for x in leaves if x is not None]
        return [y.detach() for y in outputs] + list(torch.autograd.grad(outputs, wanted, seeds))

    return run(dtype), run(torch.float64)


def clone(x):
    return None if x is None else x.detach().clone()


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def check_batch_norm(op, shape, dtype, layout, *, skip_channels=None, training=True, affine=True, offset=0.0):
    """GLU, or with ``skip_channels`` the skip; y's mean is asked for, and has a gradient as y has."""
    channels = shape[1]
    y_shape = (shape[0], channels if skip_channels else channels // 2, *shape[2:])
    x = (noise(*shape) + offset).to(dtype).contiguous(memory_format=layout)
    skip = None
    if skip_channels:
        skip = noise(shape[0], skip_channels, *shape[2:]).to(dtype).contiguous(memory_format=layout)
    weight, bias = (noise(channels) + 1, noise(channels, seed=1)) if affine else (None, None)
    mean, var = (None, None) if training else (noise(channels, seed=2), noise(channels, seed=3).square() + 0.5)
    grad_y = noise(*y_shape, seed=4).to(dtype).contiguous(memory_format=layout)
    grad_mean = noise(*y_shape[:2], seed=5)

    def eager(x, weight, bias):
        stats = (None, None) if training else (mean.to(x.dtype), var.to(x.dtype))
        if skip is None:
            y = reference.batch_norm_glu(x, reference.BatchNorm(weight, bias, *stats, training, eps=EPS))
        else:
            z = F.batch_norm(x, *stats, weight, bias, training, eps=EPS)
            y = z + skip.to(x.dtype).repeat(1, channels // skip_channels, 1, 1)
        return y, y.mean((2, 3))

    with sanitized():
        y, used_mean, used_var, rstd, y_mean = op.batch_norm_glu_forward(x, weight, bias, skip, mean, var, EPS, True)
        grad_x, grad_weight, grad_bias = op.batch_norm_glu_backward(
            grad_y, grad_mean, x, weight, bias, used_mean, rstd, skip is None, training, None, 0
        )
    results = {"y": y, "y_mean": y_mean, "grad_x": grad_x}
    if affine:
        results |= {"grad_weight": grad_weight, "grad_bias": grad_bias}
    assert y.is_contiguous(memory_format=layout)
    assert grad_x.is_contiguous(memory_format=layout)
    if not training:
        for used, given in ((used_mean, mean), (used_var, var)):
            assert torch.equal(used, given)
            assert used.data_ptr() != given.data_ptr()
    assert_accurate(results, *eager_and_truth(eager, (x, weight, bias), (grad_y, grad_mean), dtype), dtype)
    return results


def check_upsample(op, sizes, dtype, layout):
    """``sizes``: B, I, O, H, W."""
    samples, in_channels, out_channels, height, width = sizes
    x = noise(samples, in_channels, height, width).to(dtype).contiguous(memory_format=layout)
    weight = (noise(out_channels, in_channels, 3, 3) / (9 * in_channels) ** 0.5).to(dtype)
    grad_y = noise(samples, out_channels, 2 * height, 2 * width).to(dtype).contiguous(memory_format=layout)
    with sanitized():
        y = op.upsample_conv3x3_forward(x, weight)
        grad_x, grad_weight = op.upsample_conv3x3_backward(grad_y, x, weight, True, True)
    results = {"y": y, "grad_x": grad_x, "grad_weight": grad_weight}
    assert y.is_contiguous(memory_format=layout)
    assert grad_x.is_contiguous(memory_format=layout)

    def eager(x, weight):
        return (reference.upsample_conv3x3(x, weight),)

    assert_accurate(results, *eager_and_truth(eager, (x, weight), (grad_y,), dtype), dtype)
    return results


def check_words(op, sizes, lengths, dtype, gamma1=GAMMA1, scale=1.0):
    """``sizes``: B, D, T, N. Captions of padding only are left out of the reference, which has no gradient there."""
    pictures, D, T, N = sizes
    lengths = torch.tensor(lengths)
    regions = (noise(pictures, D, N) * scale).to(dtype)
    words = (noise(len(lengths), D, T) * (2 * scale / D**0.5)).to(dtype)
    grad = noise(pictures, len(lengths))
    with sanitized():
        scores = op.words_similarity_forward(regions, words, lengths, gamma1, GAMMA2)
        grad_regions, grad_words = op.words_similarity_backward(grad, scores, regions, words, lengths, gamma1, GAMMA2)
    real = lengths > 0

    def eager(regions, words):
        pictured = regions.unflatten(2, (1, N))
        return (reference.words_similarity(pictured, words[real], lengths[real], gamma1=gamma1, gamma2=GAMMA2),)

    assert (scores[:, ~real] == -torch.inf).all()
    results = {"scores": scores[:, real], "grad_regions": grad_regions, "grad_words": grad_words}
    assert_accurate(results, *eager_and_truth(eager, (regions, words), (grad[:, real],), dtype), dtype)
    return results
