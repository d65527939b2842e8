"""The native library loads on first use; if it can't, the message says what to do."""

from pathlib import Path

import pytest
import torch

from dmgan_fast import native
from dmgan_fast.errors import BackendError


@pytest.fixture(autouse=True)
def fresh_load():
    native.load.cache_clear()
    yield
    native.load.cache_clear()


def test_library_is_built_and_answers():
    assert native.load().target_version() == 2011


def test_library_needs_no_particular_python():
    file = native.library_file()
    assert file is not None
    assert file.name.startswith("_C.abi3."), "one library serves every CPython >= 3.10"


def test_library_that_is_not_built_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "library_file", lambda kind: None)
    with pytest.raises(BackendError, match=r"not built.*make build"):
        native.load()


def test_library_that_does_not_load_names_file_and_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(native, "library_file", lambda kind: broken)
    with pytest.raises(BackendError) as caught:
        native.load()
    message = str(caught.value)
    assert broken.name in message
    assert torch.__version__ in message
    assert "make build" in message


def test_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch):
    class Older:
        @staticmethod
        def target_version() -> int:
            return 2010

    monkeypatch.setattr(torch.ops, "dmgan_fast_cpu", Older)
    with pytest.raises(BackendError, match="another version of dmgan_fast"):
        native.load()
