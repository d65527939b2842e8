"""What this machine has and what can run on it; for users and for bug reports."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dmgan_fast import native
from dmgan_fast._version import __version__
from dmgan_fast.errors import BackendError
from dmgan_fast.ops import _backends, selfcheck

LEVEL_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "sse2": "SSE2", "neon": "NEON", "portable": "portable"}
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "pillow",
    "pydantic",
    "safetensors",
    "huggingface_hub",
    "torch-fidelity",
    "setuptools",
    "ninja",
)
COMPILERS = ("c++", "nvcc")
OURS = "DMGAN_FAST_"
# Variables of others that change what is built, what runs, or how fast.
VARIABLES = (
    "CC",
    "CXX",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MAX_JOBS",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "TORCH_CUDA_ARCH_LIST",
    "TRITON_CACHE_DIR",
    "TRITON_INTERPRET",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def collect() -> dict[str, Any]:
    """Versions, devices, compilers, the native library, the environment, and which backend can run each op."""
    return {
        "dmgan_fast": __version__,
        "installed": str(Path(__file__).parent),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{_distribution()}, {platform.system()} {platform.release()} {platform.machine()}, {_libc()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "processor": f"{processor()}, {os.cpu_count()} logical cores",
        "cpu": _cpu(),
        "torch built for": _toolkit(),
        "driver": _driver(),
        "gpus": [_gpu(k) for k in range(torch.cuda.device_count())],
        "compilers": {name: _first_line(name, "--version") for name in COMPILERS},
        "environment": {name: value for name, value in sorted(os.environ.items()) if _matters(name)},
        "refused": selfcheck.known_faults(),
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


def _matters(name: str) -> bool:
    return name.startswith(OURS) or name in VARIABLES


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown distribution")
    except OSError:
        return platform.platform()


def _libc() -> str:
    return " ".join(platform.libc_ver()).strip() or "unknown C library"


def processor() -> str:
    """The CPU's model as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _toolkit() -> str:
    kinds = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    return next((f"{name} {found}" for name, found in kinds.items() if found), "CPUs only")


def _gpu(index: int) -> str:
    found = torch.cuda.get_device_properties(index)
    return f"{found.name}, compute capability {found.major}.{found.minor}, {found.total_memory / 2**30:.1f} GiB"


def _driver() -> str:
    """NVIDIA's driver, by its tool or by its kernel module."""
    found = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        module = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        module = found
    return module if found == "not found" else f"NVIDIA {found}"


def _first_line(program: str, *arguments: str) -> str:
    """What a program on PATH says of itself: of several lines, that with a version."""
    file = shutil.which(program)
    if file is None:
        return "not found"
    try:
        done = subprocess.run([file, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{file} fails: {error}"
    lines = done.stdout.strip().splitlines() or [f"{file} says nothing"]
    return next((line.strip() for line in lines if "release" in line), lines[0].strip())
