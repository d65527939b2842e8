"""A convolution and its batch norm in evaluation in one pass: as exact as eager, at every level, in every shape."""

from typing import NamedTuple

import pytest
import torch

from dmgan_fast import native, reference
from dmgan_fast.aten import convolutions
from dmgan_fast.errors import BackendError, InputError
from dmgan_fast.functional import folded_conv3x3
from dmgan_fast.modules.blocks import ResidualBlock, UpBlock
from dmgan_fast.reference import BatchNorm
from tests.ops.harness import FORWARD_BUDGET, LAYOUTS, relative_error, with_threads


class Sizes(NamedTuple):
    batch: int
    inputs: int
    outputs: int
    height: int
    width: int
    copies: int = 0  # of skip; 0: GLU
    upsample: bool = False


CASES = {
    "gated": Sizes(2, 20, 24, 9, 10),
    "gated, one pixel": Sizes(3, 4, 6, 1, 1),
    "gated, one row": Sizes(2, 4, 6, 1, 9),
    "gated, wider than a vector of tiles": Sizes(1, 3, 10, 5, 70),
    "gated, several chunks of channels": Sizes(1, 8, 150, 13, 34),
    "gated, residual block": Sizes(1, 128, 256, 33, 34),
    "skipped": Sizes(2, 20, 12, 9, 10, copies=1),
    "skipped, repeated": Sizes(2, 20, 12, 9, 10, copies=3),
    "skipped, wider than a vector of tiles": Sizes(1, 3, 5, 5, 70, copies=5),
    "skipped, several chunks of channels": Sizes(2, 8, 150, 34, 34, copies=2),
    "up-sampled, in pairs": Sizes(2, 12, 20, 17, 18, upsample=True),
    "up-sampled, one by one": Sizes(2, 12, 20, 3, 5, upsample=True),
    "up-sampled, several chunks of channels": Sizes(1, 8, 134, 24, 40, upsample=True),
}


def arguments_of(sizes, affine=True, layout="contiguous"):
    """In float64: x, conv_weight, the norm's four, skip."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x = LAYOUTS[layout](randn(sizes.batch, sizes.inputs, sizes.height, sizes.width))
    conv_weight = randn(sizes.outputs, sizes.inputs, 3, 3) * (9 * sizes.inputs) ** -0.5
    affine = (randn(sizes.outputs), randn(sizes.outputs)) if affine else (None, None)
    statistics = randn(sizes.outputs), randn(sizes.outputs).square() + 0.1
    skip = None
    if sizes.copies:
        skip = LAYOUTS[layout](randn(sizes.batch, sizes.outputs // sizes.copies, sizes.height, sizes.width))
    return x, conv_weight, *affine, *statistics, skip


def in_float32(arguments):
    return [None if each is None else each.float() for each in arguments]


def by_reference(x, conv_weight, weight, bias, mean, var, skip, upsample):
    norm = BatchNorm(weight, bias, mean, var, training=False)
    return reference.folded_conv3x3(x, conv_weight, norm, skip, upsample=upsample)


@pytest.fixture
def native_everywhere(monkeypatch):
    """The kernel runs maps of every size, also where the two ops are faster."""
    monkeypatch.setattr(convolutions, "crossover", lambda op: convolutions.Crossover(0, ()))


def assert_as_exact(found, exact, eager):
    budget = FORWARD_BUDGET * relative_error(eager, exact) + 1e-7
    assert found.shape == exact.shape
    assert relative_error(found, exact) <= budget


@pytest.mark.usefixtures("native_everywhere", "level")
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_results_are_as_exact_as_eager(name, affine):
    given, upsample = arguments_of(CASES[name], affine), CASES[name].upsample
    single = in_float32(given)
    found = folded_conv3x3(*single, upsample=upsample, backend="cpu")
    assert_as_exact(found, by_reference(*given, upsample), by_reference(*single, upsample))


@pytest.mark.usefixtures("native_everywhere")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [Sizes(2, 8, 8, 4, 6, copies=2), Sizes(2, 8, 8, 4, 6, upsample=True)], ids=str)
def test_images_may_have_any_strides(sizes, layout):
    given = arguments_of(sizes, layout=layout)
    single = in_float32(given)
    single[0], single[-1] = (None if each is None else LAYOUTS[layout](each) for each in (single[0], single[-1]))
    found = folded_conv3x3(*single, upsample=sizes.upsample, backend="cpu")
    assert_as_exact(found, by_reference(*given, sizes.upsample), by_reference(*single, sizes.upsample))


@pytest.mark.parametrize("inputs", [1, 2])
def test_a_skip_follows_the_layout_that_pytorch_chooses_for_the_convolution(monkeypatch, inputs):
    """With one channel, strides say NCHW and channels-last alike, and PyTorch takes the latter."""
    monkeypatch.setattr(convolutions, "crossover", lambda op: convolutions.Crossover(1 << 60, ()))
    given = arguments_of(Sizes(2, inputs, 16, 3, 2, copies=4))
    single = in_float32(given)
    if inputs == 1:
        single[0] = single[0].as_strided((2, 1, 3, 2), (6, 1, 2, 1))
    found = folded_conv3x3(*single, backend="cpu")
    assert_as_exact(found, by_reference(*given, False), by_reference(*single, False))


@pytest.mark.usefixtures("native_everywhere", "level")
@pytest.mark.parametrize("name", ["gated, residual block", "skipped, several chunks of channels"])
def test_bits_do_not_depend_on_the_number_of_threads(name):
    single = in_float32(arguments_of(CASES[name]))
    one, two, three = (with_threads(n, folded_conv3x3, *single) for n in (1, 2, 3))
    assert torch.equal(one, two)
    assert torch.equal(one, three)


def test_small_maps_take_two_kernels_with_the_same_result(monkeypatch):
    single = in_float32(arguments_of(CASES["gated, one pixel"]))
    by_two = folded_conv3x3(*single, backend="cpu")
    monkeypatch.setattr(native.load(), "folded_conv3x3_forward", None)
    assert torch.equal(by_two, folded_conv3x3(*single, backend="cpu"))
    torch.testing.assert_close(by_two, by_reference(*single, False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_are_the_two_ops(dtype):
    arguments = [None if each is None else each.to(dtype) for each in arguments_of(CASES["skipped"])]
    found = folded_conv3x3(*arguments)
    assert found.dtype == dtype
    torch.testing.assert_close(found, by_reference(*arguments, False), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_backends_without_a_kernel_of_it_run_the_two_ops(backend, monkeypatch):
    pytest.importorskip("triton")
    import tests.kernels.interpreter  # noqa: F401, Triton without a GPU

    single = in_float32(arguments_of(CASES["gated"]))
    monkeypatch.setattr(native.load(), "folded_conv3x3_forward", None)
    found = folded_conv3x3(*single, backend=backend)
    torch.testing.assert_close(found, by_reference(*single, False))


def test_what_does_not_fit_is_refused_by_name():
    x, conv_weight, *norm, skip = in_float32(arguments_of(CASES["skipped"]))
    with pytest.raises(InputError, match=r"folded_conv3x3: skip goes without upsample"):
        folded_conv3x3(x, conv_weight, *norm, skip, upsample=True)
    with pytest.raises(InputError, match=r"even number of result channels, got 11"):
        folded_conv3x3(x, conv_weight[:11], *(each[:11] for each in norm))
    with pytest.raises(InputError, match=r"skip's channels must divide 12, got 5"):
        folded_conv3x3(x, conv_weight, *norm, skip[:, :5])
    with pytest.raises(InputError, match=r"running_mean must have shape \[12\], got \[11\]"):
        folded_conv3x3(x, conv_weight, *norm[:2], norm[2][:11], norm[3])


def test_a_derivative_of_the_kernel_is_refused():
    x, *others = in_float32(arguments_of(CASES["gated, residual block"]))
    y = folded_conv3x3(x.requires_grad_(), *others, backend="cpu")
    with pytest.raises(BackendError, match=r"no derivatives of it; use backend='reference'"):
        y.sum().backward()


@pytest.mark.parametrize("block", [UpBlock(16, 8), ResidualBlock(16)], ids=lambda block: type(block).__name__)
def test_blocks_take_one_pass_only_where_nobody_learns_or_looks(block, monkeypatch):
    calls = []
    kernel = native.load().folded_conv3x3_forward

    def counted(*arguments):
        calls.append(arguments)
        return kernel(*arguments)

    monkeypatch.setattr(native.load(), "folded_conv3x3_forward", counted)
    x, norms = torch.randn(2, 16, 40, 40), [each for each in block.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_()
    block.train()
    with torch.no_grad():
        block(x)
    block.eval()
    differentiable = block(x)
    assert not calls
    with torch.no_grad():
        folded = block(x)
    assert len(calls) == len(norms)
    torch.testing.assert_close(folded, differentiable, rtol=1e-4, atol=1e-4)
    seen = []
    hooks = [norm.register_forward_hook(lambda *given: seen.append(given)) for norm in norms]
    with torch.no_grad():
        block(x)
    assert len(seen) == len(norms)
    for hook in hooks:
        hook.remove()
