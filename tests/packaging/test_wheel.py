"""A wheel holds everything the package needs, under its final names, with a compiler or without; so does an sdist."""

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from dmgan_fast import native

ROOT = Path(__file__).parents[2]
BUILD_VARIABLES = ("CC", "CXX", "DMGAN_FAST_CUDA", "MAX_JOBS", "TORCH_CUDA_ARCH_LIST")


def copy_tree(tree: Path) -> Path:
    for name in ("dmgan_fast", "kernels", "csrc"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def setup(tree: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``setup.py`` with those variables and none else that it knows."""
    environment = {name: value for name, value in os.environ.items() if name not in BUILD_VARIABLES} | variables
    command = [sys.executable, "setup.py", "-q", *arguments]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def build(tree: Path, *arguments: str, **variables: str) -> Path:
    """What ``setup.py`` made."""
    done = setup(tree, *arguments, "--dist-dir", "out", **variables)
    assert done.returncode == 0, done.stderr
    (file,) = (tree / "out").iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    # Libraries without operators: those take minutes to compile, and other tests run them.
    for file in (tree / "csrc/cpu").glob("*.cpp"):
        if file.name != "module.cpp":
            file.unlink()
    file = build(tree, "bdist_wheel", DMGAN_FAST_CUDA="0", MAX_JOBS="1")
    assert "-cp310-abi3-" in file.name
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def wheel_names(wheel: zipfile.ZipFile) -> set[str]:
    return set(wheel.namelist())


def test_wheel_has_every_module(wheel_names: set[str]):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dmgan_fast").rglob("*.py")}
    assert modules - wheel_names == set()


def test_wheel_has_kernels_under_the_package(wheel_names: set[str]):
    kernels = {f"dmgan_fast/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    assert kernels
    assert kernels - wheel_names == set()
    assert not [name for name in wheel_names if name.startswith("kernels/")]


def test_wheel_has_a_library_for_each_level(wheel_names: set[str]):
    levels = {"x86_64": {"sse2", "avx2", "avx512"}, "aarch64": {"neon"}}.get(platform.machine(), {"portable"})
    libraries = {name for name in wheel_names if name.endswith(".so")}
    assert libraries == {f"dmgan_fast/_cpu{end}.abi3.so" for end in ("", *(f"_{level}" for level in levels))}
    assert levels == set(native.built_levels()), "and `make build` builds the same"


def test_libraries_of_a_wheel_hold_no_symbols_but_those_they_export(wheel: zipfile.ZipFile):
    for name in wheel.namelist():
        if name.endswith(".so"):
            library = wheel.read(name)
            assert b".dynsym\0" in library
            assert b".symtab\0" not in library, f"{name} is not stripped"


def test_wheel_has_types_templates_data_and_weights(wheel_names: set[str]):
    assert "dmgan_fast/py.typed" in wheel_names
    for folder in ("data/demo_set", "templates", "weights"):
        files = {str(path.relative_to(ROOT)) for path in (ROOT / "dmgan_fast" / folder).rglob("*") if path.is_file()}
        assert {name for name in files if "__pycache__" not in name} - wheel_names == set()


def test_wheel_has_the_licence(wheel_names: set[str]):
    assert [name for name in wheel_names if name.endswith("licenses/LICENSE")]


def test_a_wheel_with_all_operators_has_at_most_12_megabytes(wheel: zipfile.ZipFile):
    files = [native.library_file(f"cpu_{level}") for level in native.built_levels()]
    libraries = sum(len(zlib.compress(file.read_bytes())) for file in files if file)
    assert Path(str(wheel.filename)).stat().st_size + libraries <= 12_000_000


def test_without_a_compiler_a_wheel_for_any_system_says_why(tmp_path: Path):
    tree = copy_tree(tmp_path)
    file = build(tree, "bdist_wheel", CXX="no-such-compiler")
    assert file.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(file).namelist() if name.endswith(".so")]
    said = setup(tree, "--version", CXX="no-such-compiler").stderr
    assert "without native code, for lack of a C++20 compiler: no-such-compiler: No such file" in said


def test_a_compiler_that_knows_no_cpp20_is_as_none(tmp_path: Path):
    old = tmp_path / "old-compiler"
    old.write_text("#!/bin/sh\necho \"unrecognized option '-std=c++20'\" >&2\nexit 1\n")
    old.chmod(0o755)
    said = setup(ROOT, "--version", CXX=str(old)).stderr
    assert f"for lack of a C++20 compiler: {old}: unrecognized option '-std=c++20'" in said


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DMGAN_FAST_CUDA": "yes"}, "DMGAN_FAST_CUDA must be auto, 0 or 1, got 'yes'"),
        ({"DMGAN_FAST_CUDA": "1", "CXX": "no-such-compiler"}, "DMGAN_FAST_CUDA=1 needs a C"),
    ],
)
def test_a_build_that_cannot_be_says_what_it_needs(variables: dict[str, str], message: str):
    done = setup(ROOT, "--version", **variables)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("torch", "message"),
    [
        ("__version__ = '2.10.0+cu130'", "dmgan_fast needs torch 2.11 or newer, this environment has 2.10.0+cu130"),
        (
            "raise ModuleNotFoundError(name='torch')",
            "dmgan_fast is built against PyTorch, which this environment lacks",
        ),
    ],
)
def test_a_build_without_a_pytorch_that_fits_says_so(torch: str, message: str, tmp_path: Path):
    (tmp_path / "torch.py").write_text(torch)
    done = setup(ROOT, "--version", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_sdist_has_all_that_a_build_needs_and_nothing_built(tmp_path: Path):
    tree = copy_tree(tmp_path)
    (tree / "dmgan_fast" / "_cpu.abi3.so").write_bytes(b"built")
    with tarfile.open(build(tree, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = [ROOT / name for name in ("csrc", "kernels", "dmgan_fast")]
    needed = {str(file.relative_to(ROOT)) for folder in folders for file in folder.rglob("*") if file.is_file()}
    needed = {name for name in needed if "__pycache__" not in name and not name.endswith(".so")}
    assert needed - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
