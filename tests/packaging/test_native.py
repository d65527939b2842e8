"""The native library loads on first use, the best CPU level or the one asked for; if it can't, it says what to do."""

import importlib
from pathlib import Path

import pytest
import torch

from dmgan_fast import native
from dmgan_fast.errors import BackendError, InputError


@pytest.fixture(autouse=True)
def fresh_load():
    native.load.cache_clear()
    yield
    native.load.cache_clear()


def test_library_is_built_and_answers():
    assert native.load().target_version() == 2011


def test_libraries_need_no_particular_python():
    for library in ("cpu", *(f"cpu_{level}" for level in native.built_levels())):
        file = native.library_file(library)
        assert file is not None
        assert file.name.startswith(f"_{library}.abi3."), "one library serves every CPython >= 3.10"


@pytest.mark.parametrize("level", native.cpu_levels())
def test_the_level_asked_for_runs(level: str, use_level):
    use_level(level)
    assert native.cpu_level() == level
    assert native.load() is getattr(torch.ops, f"dmgan_fast_cpu_{level}")


def test_the_best_level_of_the_cpu_runs_unasked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(native.LEVEL_VARIABLE, raising=False)
    for levels in (native.built_levels(), native.built_levels()[-1:]):
        monkeypatch.setattr(importlib.import_module("dmgan_fast._cpu"), "levels", lambda runs=levels: runs)
        assert native.cpu_level() == levels[0]


def test_a_level_that_is_not_built_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(native.LEVEL_VARIABLE, raising=False)
    best, find = native.cpu_level(), native.library_file
    others = tuple(level for level in native.cpu_levels() if level != best)
    monkeypatch.setattr(native, "library_file", lambda name: None if name == f"cpu_{best}" else find(name))
    assert native.cpu_levels() == others


def test_an_unknown_level_names_those_there_are(use_level):
    use_level("avx1024")
    there, built = ", ".join(native.cpu_levels()), ", ".join(native.built_levels())
    message = f"DMGAN_FAST_CPU must be one of {there} on this CPU, got 'avx1024' \\(built: {built}\\)"
    with pytest.raises(InputError, match=message):
        native.load()


def test_a_level_that_the_cpu_lacks_names_those_it_has(monkeypatch: pytest.MonkeyPatch, use_level):
    monkeypatch.setattr(importlib.import_module("dmgan_fast._cpu"), "levels", lambda: ("sse2",))
    monkeypatch.setattr(native, "built_levels", lambda: ("avx2", "sse2"))
    use_level("avx2")
    message = r"DMGAN_FAST_CPU must be one of sse2 on this CPU, got 'avx2' \(built: avx2, sse2\)"
    with pytest.raises(InputError, match=message):
        native.load()


def test_a_cpu_that_no_level_suits_says_what_is_built(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(native.LEVEL_VARIABLE, raising=False)
    monkeypatch.setattr(importlib.import_module("dmgan_fast._cpu"), "levels", lambda: ("neon",))
    monkeypatch.setattr(native, "built_levels", lambda: ("avx2", "sse2"))
    with pytest.raises(BackendError, match=r"no native CPU library for this CPU is built \(built: avx2, sse2\)"):
        native.load()


def test_library_that_is_not_built_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "library_file", lambda library: None)
    with pytest.raises(BackendError, match=r"not built.*make build"):
        native.load()


def test_library_that_does_not_load_names_file_and_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "_cpu_broken.abi3.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(native, "library_file", lambda library: broken)
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

    monkeypatch.setattr(torch.ops, f"dmgan_fast_cpu_{native.cpu_level()}", Older)
    with pytest.raises(BackendError, match="another version of dmgan_fast"):
        native.load()
