"""A wheel holds everything the package needs, under its final names."""

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dmgan_fast import native

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    tree = tmp_path_factory.mktemp("tree")
    for name in ("dmgan_fast", "kernels", "csrc"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    # Libraries without operators: those take minutes to compile, and other tests run them.
    for file in (tree / "csrc/cpu").glob("*.cpp"):
        if file.name != "module.cpp":
            file.unlink()
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", "out"]
    environment = os.environ | {"DMGAN_FAST_CUDA": "0", "MAX_JOBS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = (tree / "out").glob("*.whl")
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
