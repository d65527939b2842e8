"""A stand-in of the Hub, and a group of one process."""

import threading

import pytest
from huggingface_hub import constants
from torch import distributed

from tests.modules.hub import Hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub that huggingface_hub talks to, and an empty cache."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def alone():
    """A process group of one, as DDP scripts begin with."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    distributed.destroy_process_group()
