"""Others' code as a Python module."""

import sys
import types
from pathlib import Path

import pytest

from tests.compat import standins


@pytest.fixture
def source(monkeypatch):
    """The stand-ins as a Python module of their own, imported as the authors' are."""
    module = types.ModuleType("others_model")
    code = Path(standins.__file__).read_text()
    monkeypatch.setitem(sys.modules, "others_model", module)
    exec(compile(code, standins.__file__, "exec"), vars(module))
    return module
