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

LEVEL_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "sse2": "SSE2", "neon": "NEON", "portable": "portable"}
PACKAGES = ("torch", "torchvision", "triton", "numpy", "pillow", "pydantic", "safetensors")


def collect() -> dict[str, Any]:
    """Versions, devices, the native library, and which backend can run each op."""
    return {
        "dmgan_fast": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "cpu": _cpu(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "ops": _backends.table(),
    }


def _cpu() -> str:
    """The CPU level in use first, then what there is; or why the native library can't be used."""
    try:
        native.load()
    except BackendError as error:
        return f"none: {error}"
    return (
        f"{LEVEL_NAMES[native.cpu_level()]} (built: {', '.join(native.built_levels())}; "
        f"compiler: {native.compiler()}; PyTorch's own kernels: {torch.backends.cpu.get_cpu_capability()})"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
