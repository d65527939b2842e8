"""Fixtures shared by all tests."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dmgan_fast import native

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
# Budgets of float32 are multiples of float32's own error; PyTorch's convolutions on a GPU would be in TF32.
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

GOLDEN = Path(__file__).parent / "golden"


@cache
def load_golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="session")
def golden():
    """``golden(name)``: arrays computed with the authors' code, by name (see tests/golden/README.md)."""
    return lambda name: dict(load_golden(name))


@pytest.fixture
def use_level(monkeypatch):
    """``use_level(name)``: operators are of that CPU level from now on, until the test ends."""

    def choose(level):
        monkeypatch.setenv(native.LEVEL_VARIABLE, level)
        native.load.cache_clear()

    yield choose
    native.load.cache_clear()
