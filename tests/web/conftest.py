"""A studio with a small model, and its page on a port of this machine."""

import socket
import threading

import pytest

from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.web.models import Models
from dmgan_fast.web.studio import Studio
from tests.sampling.conftest import weights  # noqa: F401

SMALL, BROKEN = "small", "broken"


@pytest.fixture(scope="module")
def studio(weights):  # noqa: F811
    def fail():
        raise RuntimeError(f"no weights in {weights}")

    return Studio(Models({SMALL: lambda: Sampler.from_pretrained(weights, device="cpu"), BROKEN: fail}))


@pytest.fixture(scope="module")
def address(studio):
    """Of the page of ``studio``, served as ``dmgan-fast web`` serves it."""
    import uvicorn

    from dmgan_fast.web.server import application

    app = application(studio)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()
