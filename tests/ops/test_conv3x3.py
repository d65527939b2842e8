"""conv3x3 and conv4x4_stride2 against float64: native in float32 on a CPU, PyTorch's own convolution elsewhere."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.aten import convolutions
from dmgan_fast.errors import BackendError, InputError
from tests.ops.conftest import LEVELS
from tests.ops.convolution_cases import case
from tests.ops.harness import DTYPES, LAYOUTS, Case, check, inputs, run, with_threads

CASES = {
    "one pixel": case(2, 4, 6, 1, 1),
    "odd": case(3, 5, 7, 3, 5),
    "one row": case(2, 4, 6, 1, 9),
    "wider than a vector of tiles": case(1, 3, 5, 5, 41, bias=True),
    "several blocks": case(2, 6, 9, 38, 35),
    "more channels than a panel": case(1, 150, 70, 6, 7),
    "head": case(2, 64, 3, 8, 16),
    "channels last": case(2, 16, 20, 6, 5, layout="channels_last"),
    "sliced": case(2, 16, 20, 6, 5, layout="sliced channels"),
    "expanded": case(2, 16, 20, 6, 5, layout="expanded"),
    "residual block": case(1, 128, 192, 33, 34),
    "many channels": case(1, 512, 64, 32, 32),
    "narrow": case(1, 16, 32, 40, 36),
} | {
    f"strided, {name}": strided
    for name, strided in {
        "smallest": case(2, 3, 5, 2, 2, op="conv4x4_stride2"),
        "odd numbers of tiles": case(3, 5, 7, 6, 10, op="conv4x4_stride2", bias=True),
        "odd sides": case(2, 4, 6, 5, 8, op="conv4x4_stride2", bias=True),
        "several blocks": case(2, 33, 70, 36, 34, op="conv4x4_stride2", bias=True),
        "images": case(1, 3, 32, 64, 64, op="conv4x4_stride2", bias=True),
        "channels last": case(2, 16, 20, 12, 10, op="conv4x4_stride2", layout="channels_last"),
        "expanded": case(2, 16, 20, 12, 10, op="conv4x4_stride2", layout="expanded"),
    }.items()
}


@pytest.fixture
def native_everywhere(monkeypatch):
    """The native kernels run maps of every size, also where PyTorch's own are faster."""
    monkeypatch.setattr(convolutions, "crossover", lambda op: convolutions.Crossover(0, ((0, 0, 0),)))


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("native_everywhere")
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_as_exact_as_eager(name, level):
    check(CASES[name], torch.float32, "cpu", "cpu")


@pytest.fixture
def matrices_everywhere(monkeypatch):
    """Weights of every size are multiplied as matrices, as those of millions of elements are."""
    monkeypatch.setattr(convolutions, "MATRIX_WEIGHTS", 0)
    monkeypatch.setattr(convolutions, "crossover", lambda op: convolutions.Crossover(2**40, ()))
    for op in convolutions.STRIDES:
        monkeypatch.setitem(convolutions.MATRIX_PIXELS, op, range(2**40))
    monkeypatch.delattr(convolutions, "own_backward")


@pytest.mark.usefixtures("matrices_everywhere")
@pytest.mark.parametrize("name", [name for name in CASES if name != "strided, odd sides"])
def test_products_of_matrices_are_as_exact_as_eager(name):
    check(CASES[name], torch.float32, "cpu", "cpu")


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_sixteen_bits_are_as_exact_as_eager(name, dtype):
    check(CASES[name], dtype, "cpu", "cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_may_have_any_strides(layout):
    for sides in ((4, 6), (1, 9), (9, 1)):
        check(case(2, 8, 4, *sides, layout=layout), torch.float32, "cpu", "cpu")


@pytest.mark.parametrize("op", ["conv3x3", "upsample_conv3x3"])
def test_levels_agree_but_for_rounding(op, use_level):
    picture = Case(op, CASES["more channels than a panel"].tensors)
    found = []
    for level in LEVELS:
        use_level(level)
        results, grads = run(picture, inputs(picture, torch.float32, "cpu"), "cpu")
        found.append([*results, *grads.values()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * a.abs().max().item())


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_one_gradient_alone_is_the_same(wanted, level):
    both = inputs(CASES["odd"], torch.float32, "cpu")
    alone = {name: x.detach().requires_grad_(name == wanted) for name, x in both.items()}
    _, grads = run(CASES["odd"], both, "cpu")
    functional.conv3x3(**alone, backend="cpu").sum().backward()
    functional.conv3x3(**both, backend="cpu").sum().backward()
    assert torch.equal(alone[wanted].grad, both[wanted].grad)
    assert grads[wanted].shape == alone[wanted].grad.shape


@pytest.mark.usefixtures("native_everywhere")
@pytest.mark.parametrize("op", ["conv3x3", "upsample_conv3x3"])
def test_bits_do_not_depend_on_the_number_of_threads(op, level):
    picture = case(2, 20, 12, 70, 66)
    tensors = inputs(Case(op, picture.tensors, pictures=("x",)), torch.float32, "cpu")
    runs = [with_threads(threads, run, Case(op, picture.tensors), tensors, "cpu") for threads in (1, 2, 3)]
    found = [[*results, *grads.values()] for results, grads in runs]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_result_has_the_layout_of_the_input():
    results, grads = run(CASES["channels last"], inputs(CASES["channels last"], torch.float32, "cpu"), "cpu")
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    assert grads["x"].is_contiguous(memory_format=torch.channels_last)


def test_autocast_runs_pytorchs_convolution():
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = functional.conv3x3(x, weight)
        assert torch.equal(y, F.conv2d(x, weight, padding=1))
    assert y.dtype == torch.bfloat16


def test_float64_is_the_references():
    with pytest.raises(BackendError, match=r"it takes float32, bfloat16 and float16, got torch.float64"):
        run(CASES["odd"], inputs(CASES["odd"], torch.float64, "cpu"), "cpu")


def test_custom_op_passes_opcheck_and_compiles_whole():
    tensors = inputs(CASES["odd"], torch.float32, "cpu")
    torch.library.opcheck(torch.ops.dmgan_fast.conv3x3.default, (*tensors.values(), None, "cpu"))
    compiled = torch.compile(functional.conv3x3, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**tensors), functional.conv3x3(**tensors))


def test_bad_weight_is_named():
    with pytest.raises(InputError, match=r"conv3x3: weight must have shape \[O, 4, 3, 3\], got \[5, 4, 5, 5\]"):
        functional.conv3x3(torch.zeros(1, 4, 6, 6), torch.zeros(5, 4, 5, 5))
