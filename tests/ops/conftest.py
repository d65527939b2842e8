"""The backends under test: native at every CPU level that runs here, Triton in its interpreter, CUDA bodies on the SIMT
shim; on a GPU, the real ones.
"""

from pathlib import Path

import pytest
import torch

from dmgan_fast import native
from dmgan_fast.ops import _backends, selfcheck

# csrc/cuda built on csrc/simt, which runs CUDA threads on the CPU; `make cpp-test` builds it.
SIMT = Path(__file__).parents[2] / "build" / "cpp" / "tests" / "simt" / "libdmgan_fast_simt.so"
GPU = torch.cuda.is_available()
LEVELS = native.cpu_levels()
NAMES = [*(f"cpu-{level}" for level in LEVELS), *(("cuda", "triton") if GPU else ("triton", "simt"))]


class Name(str):
    """A backend's name, with the device its tensors live on."""

    device: str


@pytest.fixture(params=LEVELS)
def level(request, use_level):
    """A level that this CPU runs; the ``cpu`` backend is of that level."""
    use_level(request.param)
    assert native.load() is getattr(torch.ops, f"dmgan_fast_cpu_{request.param}")
    return request.param


def _load_simt(op: str) -> object:
    torch.ops.load_library(SIMT)
    return _backends.cuda_kernels(op, torch.ops.dmgan_fast_simt)


def _simt_why_not(op: str) -> str | None:
    return None if SIMT.exists() else f"{SIMT} is not built: run `make cpp-test`"


@pytest.fixture(autouse=True)
def fresh_choices(monkeypatch):
    """What a test pretends of the machine is not remembered, and no kernel is checked but by the test."""
    monkeypatch.setenv(selfcheck.VARIABLE, "0")
    _backends.forget()
    yield
    _backends.forget()


@pytest.fixture(params=NAMES)
def backend(request, monkeypatch, use_level):
    kind, _, level = request.param.partition("-")
    name = Name(kind)
    name.device = "cuda" if kind == "cuda" or (kind == "triton" and GPU) else "cpu"
    if kind == "cpu":
        use_level(level)
        assert native.load() is getattr(torch.ops, f"dmgan_fast_cpu_{level}")
    if kind == "simt":
        kernels = _backends.Kernels(_simt_why_not, _load_simt, lambda: ("cpu",))
        monkeypatch.setitem(_backends.REGISTRY, "simt", kernels)
    if kind == "triton" and not GPU:
        import tests.kernels.interpreter  # noqa: F401, makes bfloat16 right
    return name
