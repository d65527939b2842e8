"""The backends under test: native, Triton in its interpreter, CUDA bodies on the SIMT shim; on a GPU, the real ones."""

from pathlib import Path

import pytest
import torch

from dmgan_fast.ops import _backends

# csrc/cuda built on csrc/simt, which runs CUDA threads on the CPU; `make cpp-test` builds it.
SIMT = Path(__file__).parents[2] / "build" / "cpp" / "tests" / "simt" / "libdmgan_fast_simt.so"
GPU = torch.cuda.is_available()


class Name(str):
    """A backend's name, with the device its tensors live on."""

    device: str


def _load_simt(op: str) -> object:
    torch.ops.load_library(SIMT)
    return torch.ops.dmgan_fast_simt


def _simt_why_not(op: str) -> str | None:
    return None if SIMT.exists() else f"{SIMT} is not built: run `make cpp-test`"


@pytest.fixture(autouse=True)
def fresh_choices():
    """What a test pretends of the machine is not remembered."""
    _backends.forget()
    yield
    _backends.forget()


@pytest.fixture(params=["cpu", "cuda", "triton"] if GPU else ["cpu", "triton", "simt"])
def backend(request, monkeypatch):
    name = Name(request.param)
    name.device = "cuda" if request.param == "cuda" or (request.param == "triton" and GPU) else "cpu"
    if request.param == "simt":
        kernels = _backends.Kernels(_simt_why_not, _load_simt, lambda: ("cpu",))
        monkeypatch.setitem(_backends.REGISTRY, "simt", kernels)
    if request.param == "triton" and not GPU:
        import tests.kernels.interpreter  # noqa: F401, makes bfloat16 right
    return name
