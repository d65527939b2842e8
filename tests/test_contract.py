"""The contract: native code, kernels in Python and the docs agree with it, and an op is added by it."""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dmgan_fast import contract, functional, native
from dmgan_fast.contract import MEMORY_READ, OPS
from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends
from tools import signatures
from tools.fuzz.ops import signature_of

ROOT = Path(__file__).parents[1]
PYTORCHS = ("conv3x3", "conv4x4_stride2", "folded_conv3x3")  # kernels, on every backend but cpu
FUNCTIONS = {function.name: function for function in contract.functions()}


def test_native_code_registers_the_signatures_of_the_contract():
    header = (ROOT / "csrc" / "schemas.h").read_text()
    texts = re.findall(r'const char\* (\w+) =\s*((?:"[^"]*"\s*)+);', header)
    schemas = {name: "".join(re.findall(r'"([^"]*)"', text)) for name, text in texts}
    assert schemas.pop("target_version") == "target_version() -> int"
    assert schemas == {name: name + function.schema for name, function in FUNCTIONS.items()}


@pytest.mark.parametrize("level", native.cpu_levels())
def test_a_loaded_library_has_the_signatures_of_the_contract(level, use_level):
    use_level(level)
    for name, function in FUNCTIONS.items():
        found = getattr(native.load(), name).default._schema
        assert [a.name for a in found.arguments] == list(function.parameters)
        assert len(found.returns) == len(function.results)


@pytest.mark.parametrize("backend", ["triton", "aten", "reference"])
def test_kernels_in_python_take_the_arguments_of_the_contract(backend):
    pytest.importorskip("triton")
    compared = 0
    for op in filter(lambda op: op.functions, OPS.values()):
        if backend == "reference":
            kernels = importlib.import_module(f"dmgan_fast.reference.{op.name}")
        elif backend not in op.kernels or (backend == "triton" and op.name in PYTORCHS):
            continue
        else:
            kernels = _backends.REGISTRY[backend].load(op.name)
        for function in op.functions:
            kernel = getattr(kernels, function.name, None)
            if kernel is None:
                assert backend == "reference", f"{backend} has no {function.name}"
                continue
            own = inspect.signature(kernel).parameters.values()
            given = list(function.parameters)
            named = [p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
            assert named == given[: len(named)]
            assert len(named) == len(given) or any(p.kind is p.VAR_POSITIONAL for p in own)
            compared += 1
    assert compared >= 2


def test_the_docs_show_the_signatures_of_the_contract():
    page = signatures.PAGE.read_text()
    assert all(function.name in page for op in OPS.values() for function in op.functions)
    assert signatures.written(page) == page, "run `python -m tools.signatures`"


def read_inputs(words=5, dtype=torch.float32):
    h, key = torch.randn(2, 4, 3, 3, dtype=dtype), torch.randn(2, 4, words, dtype=dtype)
    return h, key, key.clone(), torch.randn(8, dtype=dtype), torch.randn(1, dtype=dtype), None


def test_what_was_right_once_does_not_excuse_what_is_wrong_now():
    right = read_inputs()
    assert MEMORY_READ.check(*right) == MEMORY_READ.check(*right)
    assert MEMORY_READ.check(*right)["T"] == 5
    h, key, value, *gate = right
    with pytest.raises(InputError, match=r"value must have the shape of key \[2, 4, 5\], got \[2, 4, 4\]"):
        MEMORY_READ.check(h, key, value[..., :4], *gate)
    with pytest.raises(InputError, match="padding_mask must be a tensor, got str"):
        MEMORY_READ.check(*right[:5], "none")
    with pytest.raises(InputError, match="padding_mask must be bool"):
        MEMORY_READ.check(*right[:5], torch.ones(2, 5))
    mixed = (h.half(), *right[1:])
    with torch.autocast("cpu", torch.bfloat16):
        assert MEMORY_READ.check(*mixed)["C"] == 4
    with pytest.raises(InputError, match=r"key is torch.float32, h is torch.float16"):
        MEMORY_READ.check(*mixed)


def test_what_is_remembered_of_shapes_has_a_limit(monkeypatch):
    monkeypatch.setattr(contract, "MANY", 3)
    MEMORY_READ.checked.clear()
    for words in range(1, 9):
        assert MEMORY_READ.check(*read_inputs(words))["T"] == words
    assert len(MEMORY_READ.checked) <= 3


CASES = {
    "memory_read_forward": lambda x: (
        x,
        x[:, :, 0].contiguous(),
        x[:, :, 1].contiguous(),
        None,
        None,
        None,
        False,
        True,
        False,
    ),
    "batch_norm_glu_forward": lambda x: (x, None, None, None, None, None, 1e-5, True),
    "batch_norm_glu_statistics": lambda x: (x,),
    "conv3x3_forward": lambda x: (x, torch.randn(6, 4, 3, 3), None),
    "conv3x3_backward": lambda x: (torch.randn(2, 6, 8, 6), x.contiguous(), torch.randn(6, 4, 3, 3), True, False),
    "conv4x4_stride2_forward": lambda x: (x.contiguous(), torch.randn(6, 4, 4, 4), None),
    "upsample_conv3x3_forward": lambda x: (x.contiguous(), torch.randn(6, 4, 3, 3)),
    "relayout": lambda x: (x,),
}


@pytest.mark.parametrize("name", CASES)
def test_native_kernels_give_what_they_would_without_data(name):
    x = torch.randn(2, 4, 8, 6)
    arguments = CASES[name](x)
    torch.library.opcheck(getattr(native.load(), name).default, arguments, test_utils="test_faketensor")


USE = """
import torch
from functools import partial
from benchmarks.common import Target
from benchmarks.harness import is_correct, truth_of
from benchmarks.ops import BENCHMARKS
from benchmarks.ops.channel_scale import case
from dmgan_fast import functional
from dmgan_fast.errors import BackendError, InputError
from dmgan_fast.ops import _backends

x, scale = torch.randn(2, 3, 5, 7, requires_grad=True), torch.randn(3, requires_grad=True)
for backend in ("auto", "triton"):
    y = functional.channel_scale(x, scale, backend=backend)
    torch.testing.assert_close(y, x * scale[:, None, None])
    for found, true in zip(torch.autograd.grad(y.square().sum(), (x, scale)),
                           torch.autograd.grad((x * scale[:, None, None]).square().sum(), (x, scale))):
        torch.testing.assert_close(found, true)
torch.library.opcheck(torch.ops.dmgan_fast.channel_scale.default, (x, scale, "triton"))

def refused(error, *inputs, **options):
    try:
        functional.channel_scale(*inputs, **options)
    except error as refusal:
        return str(refusal)

assert "scale must have shape [3], got [4]" in refused(InputError, x, torch.ones(4))
assert "it has no kernel of this op" in refused(BackendError, x, scale, backend="cpu")
wide = torch.ones(1, 1025, 1, 1), torch.ones(1025)
assert "it takes at most 1024 channels, got 1025" in refused(BackendError, *wide, backend="triton")
y = functional.channel_scale(x, scale, backend="triton")
(grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
try:
    grad.sum().backward()
    raise SystemExit("second derivatives")
except BackendError as refusal:
    assert "channel_scale: the fused kernels have no second derivatives" in str(refusal)
assert _backends.table()["channel_scale"]["reference"].startswith("yes")
assert "channel_scale" in BENCHMARKS
small = case(Target("cpu"), batch=1, channels=3, side=4)
assert is_correct(small, partial(functional.channel_scale, backend="triton"), truth_of(small))
"""


def test_an_op_is_added_as_the_guide_says(tmp_path):
    """CONTRIBUTING.md's diff, applied to a copy of the package, gives an op with all that ops have."""
    pytest.importorskip("triton")
    keep = shutil.ignore_patterns("__pycache__", "*.so", "weights", "demo_set", "results", "figures", "kernels")
    for folder in ("dmgan_fast", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=keep)
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    (tmp_path / "dmgan_fast" / "kernels").symlink_to(tmp_path / "kernels")
    for library in (ROOT / "dmgan_fast").glob("*.so"):
        (tmp_path / "dmgan_fast" / library.name).symlink_to(library)
    diff = re.search(r"(?s)```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text())
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff[1], text=True, check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.to_sparse(), "words must be a dense tensor, got one that is sparse_coo"),
        (lambda x: torch.nested.nested_tensor([x[0], x[0]]), "words must be a dense tensor, got one that is nested"),
        (lambda x: x.to(torch.float8_e4m3fn), r"words is torch.float8_e4m3fn, regions is .*one dtype"),
        (lambda x: x.to(torch.complex64), r"words is torch.complex64, regions is .*one dtype"),
        (lambda x: x.tolist(), "words must be a tensor, got list"),
    ],
)
def test_tensors_that_no_kernel_reads_are_refused_even_after_ones_of_that_shape(spoil, message):
    regions, words, lengths = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 5), torch.tensor([5, 2])
    functional.words_similarity(regions, words, lengths, gamma1=4.0, gamma2=5.0)
    with pytest.raises(InputError, match=message):
        functional.words_similarity(regions, spoil(words), lengths, gamma1=4.0, gamma2=5.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_nan_reaches_every_result_that_it_reaches_in_the_reference(dtype):
    """Of each input in turn; kernels that clamp or take maxima lose it easily."""
    signatures = {name: signature_of(OPS[name]) for name in ("memory_write", "memory_read", "words_similarity")}
    usual = {"backend": "cpu", "gamma1": 4.0, "gamma2": 5.0, "mask_mode": "paper", "return_attention": True}
    sizes = {"B": 2, "B'": 3, "C": 5, "D": 4, "T": 7, "H": 3, "W": 6}
    for name, signature in signatures.items():
        case = {"sizes": sizes, "meta": False, "dtype": str(dtype)[6:], "layout": "contiguous", "values": "normal"}
        case |= {"without": ("padding_mask",), "faults": [], "options": {}, "seed": 7}
        given = {k: v for k, v in usual.items() if k in signature.options}
        for spoilt in signature.build(case):
            arguments = signature.build(case)
            if not isinstance(arguments[spoilt], torch.Tensor) or not arguments[spoilt].is_floating_point():
                continue
            arguments[spoilt].view(-1)[1 if arguments[spoilt].numel() > 1 else 0] = torch.nan
            found = getattr(functional, name)(**arguments, **given)
            truth = getattr(functional, name)(**arguments, **given | {"backend": "reference"})
            for one, other in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (found, truth)), strict=True):
                assert not (one.isfinite() & other.isnan()).any(), f"{name}: a NaN in {spoilt} got lost"


def test_a_first_tensor_of_a_dtype_that_nothing_computes_in_is_refused():
    regions, words, lengths = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 5), torch.tensor([5, 2])
    with pytest.raises(InputError, match=r"regions must be float32, bfloat16, float16 or float64, got torch\.float8"):
        functional.words_similarity(regions.to(torch.float8_e4m3fn), words, lengths, gamma1=4.0, gamma2=5.0)
