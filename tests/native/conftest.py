"""C++ internals of every CPU level that this machine runs, as Python modules that `make cpp-test` builds."""

import importlib.util
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import pytest

from dmgan_fast import native

FOLDER = Path(__file__).parents[2] / "build" / "cpp" / "tests" / "native"


@pytest.fixture(scope="module", params=native.cpu_levels())
def internals(request):
    name = f"internals_{request.param}"
    file = FOLDER / f"{name}.so"
    assert file.exists(), f"{file} is not built: run `make cpp-test`"
    spec = importlib.util.spec_from_file_location(name, file, loader=ExtensionFileLoader(name, str(file)))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
