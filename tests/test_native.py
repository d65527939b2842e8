"""The native library loads on first use, the best CPU level or the one asked for; if it can't, it says what to do."""

import importlib
import logging
from pathlib import Path

import pytest
import torch

from dmgan_fast import functional, native
from dmgan_fast.errors import BackendError, InputError
from dmgan_fast.ops import _backends


@pytest.fixture(autouse=True)
def fresh_load():
    def forget():
        native.load.cache_clear()
        native.warn_if_missing.cache_clear()
        _backends.forget()

    forget()
    yield
    forget()


def test_library_is_built_and_answers():
    assert native.load().target_version() == 2011


@pytest.mark.parametrize(
    ("wrong", "name"), [(torch.float64, "Double"), (torch.bfloat16, "BFloat16"), (torch.int64, "Long")]
)
@pytest.mark.parametrize("argument", ["weight", "mean"])
def test_kernels_refuse_tensors_of_a_dtype_that_they_would_misread(argument, wrong, name):
    """The ops check before; this stands behind them, at the pointer."""
    channels = {key: torch.ones(4, dtype=wrong if key == argument else torch.float32) for key in ("weight", "mean")}
    x, one = torch.ones(2, 4, 3, 3), torch.ones(4)
    with pytest.raises(RuntimeError, match=f"expected scalar type .*Float but found {name}"):
        native.load().batch_norm_glu_forward(x, channels["weight"], one, None, channels["mean"], one, 1e-5, False)


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


@pytest.mark.parametrize(
    ("version", "fits"), [("2.10.1+cu130", False), ("1.13.0", False), ("2.11.0", True), ("3.0.0a0", True)]
)
def test_a_pytorch_that_is_too_old_is_one_paragraph_with_the_fix(version: str, fits: bool, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    if fits:
        native.load()
        return
    with pytest.raises(BackendError, match=r"needs torch 2.11 or newer, here is .*: `pip install -U torch`") as caught:
        native.load()
    assert "\n" not in str(caught.value)


def norm(dtype: torch.dtype = torch.float32, backend: str | None = None) -> torch.Tensor:
    x = torch.arange(32.0).reshape(1, 4, 2, 4).to(dtype)
    return functional.batch_norm_glu(x, None, None, None, None, training=True, backend=backend)


def test_without_the_library_the_reference_runs_and_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.delenv(_backends.VARIABLE, raising=False)
    monkeypatch.setattr(native, "library_file", lambda library: None)
    with caplog.at_level(logging.WARNING, "dmgan_fast"):
        assert torch.equal(norm(), norm(backend="reference"))
        norm(torch.bfloat16)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(
        "dmgan_fast runs on its slow reference: the native CPU library of dmgan_fast is not built"
    )
    assert "C++20 compiler" in message


def test_with_the_library_nothing_is_said(monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.delenv(_backends.VARIABLE, raising=False)
    with caplog.at_level(logging.WARNING, "dmgan_fast"):
        norm()
        norm(torch.float64)  # which runs on the reference everywhere
        norm(backend="reference")
    assert not caplog.records
