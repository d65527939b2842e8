"""The Triton kernels around the convolutions and of the words loss, interpreted: sanitized on odd shapes, as accurate
as eager PyTorch, the same bits on every run; and faults planted in their source are caught.
"""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast import reference
from tests.kernels.interpreter import InterpreterError, mutant, sanitized  # before anything imports Triton

from dmgan_fast.kernels import batch_norm_glu, upsample_conv3x3, words_similarity  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of lanes that are masked off

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


# ------------------------------------------------------------------------------------------------------ batch_norm_glu


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 10, 7, 9), (1, 96, 5, 5), (2, 6, 65, 33)])
def test_batch_norm_glu_is_as_accurate_as_eager(shape, dtype, layout):
    check_batch_norm(batch_norm_glu, shape, dtype, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("skip_channels", [12, 4])
def test_channels_take_the_skip_in_turn(skip_channels, layout):
    check_batch_norm(batch_norm_glu, (2, 12, 7, 9), torch.float32, layout, skip_channels=skip_channels)


def test_evaluation_uses_the_statistics_given():
    check_batch_norm(batch_norm_glu, (2, 10, 7, 9), torch.float32, LAYOUTS[0], training=False)


def test_weight_and_bias_may_be_missing():
    check_batch_norm(batch_norm_glu, (2, 10, 7, 9), torch.float32, LAYOUTS[0], affine=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_leaves_the_variance_exact(layout):
    check_batch_norm(batch_norm_glu, (2, 4, 65, 33), torch.float32, layout, offset=1000.0)
    x = (noise(2, 4, 65, 33) + 1000).contiguous(memory_format=layout)
    mean, var = batch_norm_glu.batch_norm_glu_statistics(x)
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)).float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(var, x.double().var((0, 2, 3), unbiased=False).float(), rtol=1e-6, atol=0)


def test_sums_of_all_processes_replace_the_local_ones():
    x, grad_y = noise(4, 6, 5, 7), noise(4, 3, 5, 7, seed=1)
    weight, bias = noise(6), noise(6, seed=1)
    op = batch_norm_glu
    _, mean, _, rstd, _ = op.batch_norm_glu_forward(x, weight, bias, None, None, None, EPS, False)
    whole = op.batch_norm_glu_backward(grad_y, None, x, weight, bias, mean, rstd, True, True, None, 0)
    sums = op.batch_norm_glu_reduce(grad_y, None, x, weight, bias, mean, rstd, True)
    halves = [
        op.batch_norm_glu_backward(grad_y[half], None, x[half], weight, bias, mean, rstd, True, True, sums, 4 * 35)
        for half in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), whole[0])
    torch.testing.assert_close(halves[0][1] + halves[1][1], whole[1])
    torch.testing.assert_close(halves[0][2] + halves[1][2], whole[2])


# ---------------------------------------------------------------------------------------------------- upsample_conv3x3


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(2, 5, 7, 3, 5), (1, 40, 70, 5, 9), (3, 3, 2, 2, 1)])
def test_upsample_is_as_accurate_as_eager(sizes, dtype, layout, monkeypatch):
    monkeypatch.setattr(upsample_conv3x3, "SPLIT_PIXELS", 32)
    check_upsample(upsample_conv3x3, sizes, dtype, layout)


def test_only_the_gradients_asked_for_are_computed():
    x, weight, grad_y = noise(1, 3, 4, 4), noise(2, 3, 3, 3), noise(1, 2, 8, 8)
    grad_x, grad_weight = upsample_conv3x3.upsample_conv3x3_backward(grad_y, x, weight, False, True)
    assert (grad_x.shape, grad_weight.shape) == ((0,), weight.shape)
    grad_x, grad_weight = upsample_conv3x3.upsample_conv3x3_backward(grad_y, x, weight, True, False)
    assert (grad_x.shape, grad_weight.shape) == (x.shape, (0,))


# ---------------------------------------------------------------------------------------------------- words_similarity


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "lengths"), [((2, 5, 7, 10), [7, 3, 1]), ((1, 48, 1, 33), [1]), ((2, 70, 33, 65), [33, 17])]
)
def test_words_similarity_is_as_accurate_as_eager(sizes, lengths, dtype):
    check_words(words_similarity, sizes, lengths, dtype)


def test_a_caption_of_padding_matches_nothing_and_gets_no_gradient():
    results = check_words(words_similarity, (2, 32, 18, 17), [18, 0, 5], torch.float32)
    assert (results["grad_words"][1] == 0).all()


def test_captions_beyond_one_group_are_scored():
    check_words(words_similarity, (1, 8, 4, 9), [4, 3] * 8 + [1], torch.float32)


def test_a_sharp_softmax_over_regions_does_not_underflow():
    check_words(words_similarity, (2, 16, 5, 40), [5, 2], torch.float32, gamma1=200.0)


def test_the_product_of_norms_is_clamped_as_in_the_reference():
    check_words(words_similarity, (2, 16, 5, 20), [5, 2], torch.float32, scale=1e-5)


# --------------------------------------------------------------------------------------------------------- all of them


def run_batch_norm(op):
    return check_batch_norm(op, (2, 10, 37, 33), torch.float32, LAYOUTS[1])


def run_upsample(op):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op, "SPLIT_PIXELS", 32)
        return check_upsample(op, (2, 5, 7, 5, 7), torch.float32, LAYOUTS[0])


def run_words(op):
    return check_words(op, (2, 20, 18, 70), [18, 5, 1], torch.float32)


@pytest.mark.parametrize(
    ("run", "op"),
    [(run_batch_norm, batch_norm_glu), (run_upsample, upsample_conv3x3), (run_words, words_similarity)],
)
def test_every_run_gives_the_same_bits(run, op):
    for first, second in zip(run(op).values(), run(op).values(), strict=True):
        assert torch.equal(first, second)


# fault: old, new
BATCH_NORM_FAULTS = {
    "dropped mask of the variance": (
        "tl.where(mask, values.to(tl.float32) - pivot[:, None], 0.0)",
        "values.to(tl.float32) - pivot[:, None]",
    ),
    "block of another size": ("blocks.BP * TILES_PER_BLOCK, BR", "blocks.BP, BR"),
    "y stored one channel on": ("_tile(y, sample, channel, pixel", "_tile(y, sample, channel + 1, pixel"),
    "partial means of a sample in one place": ("y_parts + (sample * blocks + block) *", "y_parts + sample *"),
    "slope of the gate": ("dz_a * z_a * (1 - gate)", "dz_a * z_a"),
    "no gradient through the mean": ("dz - dz_mean - xhat", "dz - xhat"),
}
UPSAMPLE_FAULTS = {
    "dropped mask of the upper edge": ("(row >= 0) & ", ""),
    "dropped mask of the last pixel": ("q % 2, p < pixels, out_channels", "q % 2, p <= pixels, out_channels"),
    "column parities swapped": ("2 * column + q % 2", "2 * column + 1 - q % 2"),
    "tap on the wrong side": ("(parity + k + 1) // 2", "(parity + k) // 2"),
    "splits in one place": ("split.to(tl.int64) * TAPS + ", ""),
}
WORDS_FAULTS = {
    "dropped mask of padding": ("live = mask & (t < length)[:, None]", "live = mask"),
    "scale of the softmax over regions": ('gamma1 * s, float("-inf")', 's, float("-inf")'),
    "scores stored one caption on": ("scores_stride + k + tl", "scores_stride + k + 1 + tl"),
    "softmax backward without its mean": (" - mean[None, :])", ")"),
    "captions in one place": ("grad_words + k * D * T + d", "grad_words + d"),
}
FAULTS = [
    pytest.param(run, op, *change, id=fault)
    for run, op, faults in (
        (run_batch_norm, batch_norm_glu, BATCH_NORM_FAULTS),
        (run_upsample, upsample_conv3x3, UPSAMPLE_FAULTS),
        (run_words, words_similarity, WORDS_FAULTS),
    )
    for fault, change in faults.items()
]


@pytest.mark.parametrize(("run", "op", "old", "new"), FAULTS)
def test_planted_faults_are_caught(run, op, old, new, tmp_path):
    with pytest.raises((AssertionError, InterpreterError)):
        run(mutant(op, old, new, tmp_path))
