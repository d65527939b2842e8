"""A wheel holds everything the package needs, under its final names."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    tree = tmp_path_factory.mktemp("tree")
    for name in ("dmgan_fast", "kernels", "csrc"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    # With the library that `make build` compiled, in place of compiling it again.
    (tree / "built/dmgan_fast").mkdir(parents=True)
    shutil.copy(ROOT / "dmgan_fast/_C.abi3.so", tree / "built/dmgan_fast")
    (tree / "setup.cfg").write_text("[build]\nbuild_lib = built\n")
    command = [sys.executable, "setup.py", "-q", "build_py", "bdist_wheel", "--skip-build", "--dist-dir", "out"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree / "out").glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_has_every_module(wheel_names: set[str]):
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "dmgan_fast").rglob("*.py")}
    assert modules - wheel_names == set()


def test_wheel_has_kernels_under_the_package(wheel_names: set[str]):
    kernels = {f"dmgan_fast/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    assert kernels
    assert kernels - wheel_names == set()
    assert not [name for name in wheel_names if name.startswith("kernels/")]


def test_wheel_has_library_types_data_and_weights(wheel_names: set[str]):
    assert "dmgan_fast/_C.abi3.so" in wheel_names
    assert "dmgan_fast/py.typed" in wheel_names
    for folder in ("data/demo_set", "weights"):
        files = {str(path.relative_to(ROOT)) for path in (ROOT / "dmgan_fast" / folder).rglob("*") if path.is_file()}
        assert {name for name in files if "__pycache__" not in name} - wheel_names == set()


def test_wheel_has_the_licence(wheel_names: set[str]):
    assert [name for name in wheel_names if name.endswith("licenses/LICENSE")]
