"""The ops through dmgan_fast.functional: exact identities, padding, checks, backends, one graph."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from dmgan_fast import functional
from dmgan_fast.errors import BackendError, InputError
from dmgan_fast.ops import _backends
from tests.ops.arguments import (
    B,
    C,
    D,
    H,
    T,
    W,
    call,
    norm_arguments,
    padding,
    rand,
    read_arguments,
    similarity_arguments,
    write_arguments,
)


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv(_backends.VARIABLE, raising=False)


ARGUMENTS = {
    "memory_write": write_arguments,
    "memory_read": read_arguments,
    "batch_norm_glu": norm_arguments,
    "conv3x3": lambda: {"x": rand(B, C, H, W), "weight": rand(D, C, 3, 3)},
    "conv4x4_stride2": lambda: {"x": rand(B, C, H, W), "weight": rand(D, C, 4, 4), "bias": rand(D)},
    "upsample_conv3x3": lambda: {"x": rand(B, C, H, W), "weight": rand(D, C, 3, 3)},
    "words_similarity": similarity_arguments,
}


def clone(arguments):
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}


@pytest.mark.parametrize("op", ARGUMENTS)
def test_gradients_are_right_and_finite(op):
    arguments = ARGUMENTS[op]()
    names = [
        k for k, v in arguments.items() if isinstance(v, torch.Tensor) and v.is_floating_point() and "running" not in k
    ]

    def run(*tensors):
        return call(op, clone(arguments) | dict(zip(names, tensors, strict=True)))

    inputs = [arguments[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("op", ARGUMENTS)
def test_any_strides_give_the_same_result(op):
    arguments = ARGUMENTS[op]()
    strided = {
        k: v.mT.contiguous().mT if isinstance(v, torch.Tensor) and v.dim() > 1 else v for k, v in arguments.items()
    }
    torch.testing.assert_close(call(op, clone(arguments)), call(op, strided))


@pytest.mark.parametrize("op", ARGUMENTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_float_type_stays_what_it_is(op, dtype):
    def cast(value):
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    result = call(op, {name: cast(value) for name, value in ARGUMENTS[op]().items()})
    for tensor in result if isinstance(result, tuple) else (result,):
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()


@pytest.mark.parametrize("op", ARGUMENTS)
def test_each_op_is_one_graph_with_its_gradients(op):
    arguments = ARGUMENTS[op]()
    torch._dynamo.reset()
    compiled = torch.compile(getattr(functional, op), fullgraph=True, backend="aot_eager")
    leaf = next(iter(arguments.values())).requires_grad_()

    def run(function):
        leaf.grad = None
        result = function(**{k: v if v is leaf or not torch.is_tensor(v) else v.clone() for k, v in arguments.items()})
        sum(r.square().sum() for r in (result if isinstance(result, tuple) else (result,))).backward()
        return result, leaf.grad

    torch.testing.assert_close(run(compiled), run(getattr(functional, op)))


# backends


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def low(op, dtype=torch.float32):
    """An op's arguments in ``dtype``."""
    return {
        k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in clone(ARGUMENTS[op]()).items()
    }


@pytest.mark.parametrize("op", ARGUMENTS)
@pytest.mark.parametrize(
    ("name", "reason"), [("cuda", "the tensors are on cpu, it runs on cuda"), ("triton", "the tensors are on cpu")]
)
def test_a_backend_that_cannot_run_says_why(op, name, reason, no_gpu):
    with pytest.raises(BackendError, match=f"{op}: backend '{name}' can't run: {reason}"):
        call(op, low(op), backend=name)


@pytest.mark.parametrize("op", ["memory_read", "memory_write"])
def test_too_many_channels_for_the_kernels_are_refused_by_name_and_run_on_the_reference(op):
    wide = 513
    if op == "memory_read":
        arguments = {"h": rand(1, wide, 2, 2), "key": rand(1, wide, 3), "value": rand(1, wide, 3)}
        arguments |= {"gate_weight": None, "gate_bias": None}
    else:
        arguments = write_arguments(channels=wide)
    arguments = {k: v if v is None else v.float() for k, v in arguments.items()}
    with pytest.raises(BackendError, match=f"{op}: backend 'cpu' can't run: it takes at most 512 channels, got 513"):
        call(op, arguments, backend="cpu")
    assert call(op, arguments)[0].isfinite().all()


@pytest.mark.parametrize("op", ARGUMENTS)
def test_unknown_backends_are_refused(op):
    with pytest.raises(
        InputError, match=f"{op}: backend must be one of auto, cuda, triton, aten, cpu, reference, got 'gpu'"
    ):
        call(op, ARGUMENTS[op](), backend="gpu")


@pytest.mark.parametrize("op", ARGUMENTS)
def test_auto_takes_the_native_kernels_on_a_cpu_and_the_reference_in_float64(op):
    def same(arguments, backend):
        found, expected = (call(op, clone(arguments), backend=name) for name in ("auto", backend))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    same(low(op), "cpu")
    same(ARGUMENTS[op](), "reference")


def test_the_environment_sets_the_default_and_the_argument_wins(monkeypatch):
    arguments = read_arguments()
    monkeypatch.setenv(_backends.VARIABLE, "cuda")
    with pytest.raises(BackendError, match="cuda"):
        call("memory_read", arguments)
    call("memory_read", arguments, backend="reference")
    monkeypatch.setenv(_backends.VARIABLE, "fastest")
    with pytest.raises(InputError, match=r"DMGAN_FAST_BACKEND must be one of .*got 'fastest'"):
        call("memory_read", arguments)


def test_auto_says_once_what_it_took(monkeypatch, caplog):
    monkeypatch.setattr(_backends, "_announced", set())
    with caplog.at_level(logging.INFO, logger="dmgan_fast"):
        for _ in range(3):
            call("memory_read", read_arguments())
            call("memory_read", low("memory_read"))
    assert [record.getMessage() for record in caplog.records] == [
        "memory_read runs on the reference backend",
        "memory_read runs on the cpu backend",
    ]


def test_the_table_covers_every_op_and_backend(no_gpu):
    table = _backends.table()
    assert set(table) == {*ARGUMENTS, "folded_conv3x3"}  # which has no derivatives and tests of its own
    for row in table.values():
        assert set(row) == {"cuda", "triton", "aten", "cpu", "reference"}
        assert row["reference"].startswith("yes: every float type")
        assert row["cpu"].startswith("yes: float32, bfloat16, float16")
        assert row["cuda"] == "PyTorch sees no CUDA device"
        assert row["triton"].startswith("PyTorch sees no CUDA device (TRITON_INTERPRET=1 ")
    assert table["memory_read"]["cpu"].endswith("at most 512 channels")


def test_a_card_that_is_too_old_is_refused_with_its_age(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    for backend in ("cuda", "triton"):
        assert "compute capability 7.5, the kernels need 8.0" in _backends.table()["memory_read"][backend]


def test_triton_launches_on_the_device_of_its_tensors(monkeypatch):
    """Triton itself takes the current device, on which tensors of another can't be read."""
    devices = ["current"]

    @contextmanager
    def device_of(tensor):
        devices.append(tensor)
        yield
        devices.pop()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    kernels = SimpleNamespace(**{name: lambda *_: devices[-1] for name in ("forward", "backward")})
    found = _backends.Kernels(lambda op: None, lambda op: kernels, lambda: ("cuda",))
    monkeypatch.setitem(_backends.REGISTRY, "triton", found)
    for name in ("forward", "backward"):
        assert _backends.function("triton", "memory_read", name)("first", "second") == "first"
    assert devices == ["current"]


# bad input

NO_NORM = dict.fromkeys(("weight", "bias", "running_mean", "running_var"))
BAD = [
    (
        "memory_read",
        {"value": rand(B, C, T - 1)},
        r"memory_read: value must have the shape of key \[3, 4, 6\], got \[3, 4, 5\]",
    ),
    ("memory_read", {"h": rand(B, C, H)}, r"h must have shape \[B, C, H, W\], got \[3, 4, 3\]"),
    ("memory_read", {"key": rand(B + 1, C, T)}, r"key must have shape \[3, 4, T\], got \[4, 4, 6\]"),
    ("memory_read", {"gate_weight": rand(C)}, r"gate_weight must have shape \[8\], got \[4\]"),
    ("memory_read", {"gate_bias": None}, "give gate_weight and gate_bias together"),
    ("memory_read", {"padding_mask": padding()[:, :-1]}, r"padding_mask must have shape \[3, 6\], got \[3, 5\]"),
    ("memory_read", {"padding_mask": padding().long()}, r"padding_mask must be bool .*got torch.int64"),
    ("memory_read", {"mask_mode": "oficial"}, "mask_mode must be one of paper, official, got 'oficial'"),
    ("memory_read", {"value": rand(B, C, T).float()}, "value is torch.float32, h is torch.float64; .*one dtype"),
    ("memory_read", {"key": rand(B, C, T).to("meta")}, "key is on meta, h is on cpu; .*one device"),
    ("memory_read", {"h": torch.ones(B, C, H, W, dtype=torch.int64)}, "h must be floating point, got torch.int64"),
    ("memory_read", {"h": None}, "h must be a tensor, got NoneType"),
    ("memory_write", {"words": rand(B, D)}, r"words must have shape \[B, D, T\], got \[3, 5\]"),
    ("memory_write", {"image_mean": rand(B + 1, C)}, r"image_mean must have shape \[3, C\], got \[4, 4\]"),
    ("memory_write", {"key_weight": rand(C, C)}, r"key_weight must have shape \[4, 8\], got \[4, 4\]"),
    ("memory_write", {"value_bias": rand(C).half()}, "value_bias is torch.float16, words is torch.float64"),
    ("batch_norm_glu", {"x": rand(B, 7, H, W)}, r"weight must have shape \[7\], got \[8\]"),
    ("batch_norm_glu", {"x": rand(B, 7, H, W)} | NO_NORM, "x must have an even number of channels, got 7"),
    ("batch_norm_glu", {"bias": rand(C)}, r"bias must have shape \[8\], got \[4\]"),
    ("batch_norm_glu", {"training": False, "running_var": None}, "evaluation needs running_mean and running_var"),
    ("batch_norm_glu", {"x": rand(1, 2 * C, 1, 1)}, "one value per channel has no variance"),
    ("batch_norm_glu", {"training": True, "eps": 0.0}, r"batch_norm_glu: eps must be above 0 in training, got 0\.0"),
    ("upsample_conv3x3", {"weight": rand(D, C, 5, 5)}, r"weight must have shape \[O, 4, 3, 3\], got \[5, 4, 5, 5\]"),
    ("upsample_conv3x3", {"weight": rand(D, C, 3, 3).float()}, "weight is torch.float32, x is torch.float64"),
    ("words_similarity", {"words": rand(B, D + 1, T)}, r"words must have shape \[B', 5, T\], got \[3, 6, 6\]"),
    ("words_similarity", {"lengths": torch.ones(B + 1)}, r"lengths must have shape \[3\], got \[4\]"),
    ("words_similarity", {"lengths": torch.ones(B)}, "lengths must be integers, got torch.float32"),
    ("words_similarity", {"words": rand(B, D, T).float()}, "words is torch.float32, regions is torch.float64"),
]


@pytest.mark.parametrize(
    ("op", "change", "message"), BAD, ids=[f"{op}-{'-'.join(change)}-{n}" for n, (op, change, _) in enumerate(BAD)]
)
def test_bad_input_is_refused_by_name(op, change, message):
    with pytest.raises(InputError, match=message):
        call(op, ARGUMENTS[op]() | change)
