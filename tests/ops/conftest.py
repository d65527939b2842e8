"""The backends under test: each runs here, natively, interpreted or on the SIMT shim."""

import pytest


class Name(str):
    """A backend's name, with the device its tensors live on."""

    device: str


@pytest.fixture(params=["cpu"])
def backend(request):
    name = Name(request.param)
    name.device = "cpu"
    return name
