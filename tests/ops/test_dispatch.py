"""What ``auto`` takes on a GPU, which this machine need not have; and the kernels of PyTorch's own that it takes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dmgan_fast import contract, native
from dmgan_fast.errors import BackendError
from dmgan_fast.ops import _backends, _dispatch
from tools import gpu_page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def card(monkeypatch):
    """A machine with a card of compute capability 9.0, and whatever is built for it."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(native, "load", lambda kind="cpu": torch.ops)


LARGE = 10 * 64 * 128**2  # the map that the second memory of birds reads, of ten images


def chosen(op, dtype=torch.float32, channels=64, elements=LARGE):
    tensor = SimpleNamespace(device=torch.device("cuda"), dtype=dtype, numel=lambda: elements)
    return _backends.choose(contract.OPS[op], None, tensor, {"C": channels})


@pytest.mark.parametrize(
    ("op", "dtype", "backend"),
    [
        ("upsample_conv3x3", torch.float32, "aten"),
        ("upsample_conv3x3", torch.bfloat16, "aten"),
        ("memory_read", torch.float32, "cuda"),
        ("memory_read", torch.bfloat16, "triton"),
        ("memory_write", torch.bfloat16, "cuda"),
        ("batch_norm_glu", torch.float16, "cuda"),
        ("words_similarity", torch.float32, "cuda"),
        ("conv3x3", torch.bfloat16, "reference"),
        ("batch_norm_glu", torch.float64, "reference"),
        ("upsample_conv3x3", torch.float64, "reference"),
    ],
    ids=str,
)
def test_auto_takes_what_is_best_for_the_op_and_type(op, dtype, backend, card):
    assert chosen(op, dtype) == backend


@pytest.mark.parametrize(("side", "backend"), [(64, "cuda"), (128, "triton")])
def test_the_choice_depends_on_sizes_where_a_rule_says_so(side, backend, card):
    elements = 10 * 64 * side**2
    assert chosen("memory_read", torch.bfloat16, elements=elements) == backend
    assert chosen("memory_read", torch.float32, elements=elements) == "cuda"


def test_sizes_of_one_class_share_a_choice(card):
    for elements in range(1000, 2000):
        chosen("memory_read", torch.bfloat16, elements=elements)
    assert _backends._resolve.cache_info().currsize == 1


def test_auto_takes_the_next_where_one_cannot_run(card, monkeypatch):
    def not_built(kind="cpu"):
        raise BackendError("not built")

    monkeypatch.setattr(native, "load", not_built)
    assert chosen("batch_norm_glu") == "triton"
    assert chosen("memory_read", channels=contract.OPS["memory_read"].limits["C"] + 1) == "reference"
    monkeypatch.setitem(_backends.REGISTRY, "triton", _backends.Kernels(lambda op: "no", None, lambda: ("cuda",)))
    _backends.forget()
    assert chosen("batch_norm_glu") == "reference"
    assert chosen("upsample_conv3x3") == "aten"


def test_cards_too_old_for_the_kernels_still_get_pytorchs_own(card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert chosen("batch_norm_glu") == "reference"
    assert chosen("upsample_conv3x3") == "aten"


@pytest.mark.parametrize(("triton", "backend"), [("3.6.0", "cuda"), ("3.8.0", "triton")])
def test_a_triton_that_cannot_compile_for_the_card_is_passed_over(card, monkeypatch, triton, backend):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (10, 0))
    monkeypatch.setattr(_backends, "version", lambda name: triton)
    assert chosen("memory_read", torch.bfloat16) == backend


def test_the_machine_is_asked_once(card, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: asked.append(device) or (9, 0))
    assert {chosen("memory_read") for _ in range(5)} == {"cuda"}
    calls = len(asked)
    chosen("memory_read")
    assert len(asked) == calls


def test_every_op_has_a_rule_and_every_rule_a_reason():
    assert {rule.op for rule in _dispatch.RULES} == set(_backends.OPS)
    for rule in _dispatch.RULES:
        assert set(rule.order) <= set(_backends.REGISTRY)
        assert rule.rests_on.startswith("estimate: ") or not rule.order or (ROOT / rule.rests_on).is_file()


def test_the_page_has_the_table_as_it_is():
    assert gpu_page.written(gpu_page.PAGE.read_text()) == gpu_page.PAGE.read_text()
