"""What this machine has and what can run on it; for users and for bug reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dmgan_fast import native
from dmgan_fast._version import __version__
from dmgan_fast.errors import BackendError
from dmgan_fast.ops import _backends

PACKAGES = ("torch", "torchvision", "triton", "numpy", "pillow", "pydantic", "safetensors")


def collect() -> dict[str, Any]:
    """Versions, devices, the native library, and which backend can run each op."""
    try:
        native.load()
        library = "loaded"
    except BackendError as error:
        library = str(error)
    return {
        "dmgan_fast": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "native_library": library,
        "ops": _backends.table(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
