"""Gradients of memory writing by PyTorch's matrix products."""

import pytest
import torch

from dmgan_fast import native
from dmgan_fast.ops import _backends
from tests.ops.harness import DTYPES, check, inputs, run
from tests.ops.test_backends import WRITE


@pytest.fixture
def cuda_on_cpu(monkeypatch):
    """The cuda backend with the native kernels of the CPU in place of its own."""
    kernels = native.load("cpu")
    monkeypatch.setattr(native, "load", lambda kind="cpu": kernels)
    backend = _backends.REGISTRY["cuda"]
    stand_in = _backends.Kernels(lambda op: None, backend.load, lambda: ("cpu",))
    monkeypatch.setitem(_backends.REGISTRY, "cuda", stand_in)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WRITE)
def test_gradients_of_memory_write_by_matrix_products_are_as_exact_as_eager(name, dtype, cuda_on_cpu):
    check(WRITE[name], dtype, "cuda", "cpu")


def test_the_cuda_backend_computes_those_gradients_by_matrix_products(cuda_on_cpu):
    case = WRITE["birds"]
    tensors = inputs(case, torch.float32, "cpu")
    _, fused = run(case, tensors, "cpu")
    _, products = run(case, tensors, "cuda")
    assert any(not torch.equal(fused[name], products[name]) for name in fused)
