"""The backends under test: native, Triton in its interpreter, CUDA bodies on the SIMT shim; on a GPU, the real ones."""

import os

import pytest
import torch

GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined


class Name(str):
    """A backend's name, with the device its tensors live on."""

    device: str


@pytest.fixture(params=["cpu", "triton"])
def backend(request):
    name = Name(request.param)
    name.device = "cuda" if GPU and request.param != "cpu" else "cpu"
    if request.param == "triton" and not GPU:
        import tests.kernels.interpreter  # noqa: F401, makes bfloat16 right
    return name
