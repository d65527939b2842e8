"""The stages of ``python -m benchmarks.card``, a file each; ``stages`` runs them, ``summary`` tells what was found."""

from __future__ import annotations

import importlib.util

import dmgan_fast
from benchmarks.common import ROOT

if importlib.util.find_spec("dmgan_fast.kernels") is None:
    dmgan_fast.__path__.append(str(ROOT))  # where nothing is installed the kernels lie beside the package
