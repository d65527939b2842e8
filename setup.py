"""Builds the native libraries on PyTorch's stable ABI: one wheel per platform for CPython >= 3.10, torch >= 2.11.

``DMGAN_FAST_CUDA=1`` (or 0) decides whether the CUDA library is built; unset, it is where PyTorch sees a card and a
CUDA toolkit. ``TORCH_CUDA_ARCH_LIST`` overrides the architectures, at the price of a front end's run for each.
"""

import os
from pathlib import Path

import torch
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

TORCH_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# No -ffast-math: the kernels rely on infinities.
CXX_FLAGS = ["-O3", "-std=c++20", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wno-psabi", TORCH_ABI]
# A register spilled to local memory is an error, not a surprise.
NVCC_FLAGS = ["-O3", "-std=c++20", "-DUSE_CUDA", "-Xptxas", "-warn-spills,-warn-lmem-usage,-Werror", TORCH_ABI]
# The kernels ask for nothing that sm_80 lacks: one front end's run (two thirds of the time) serves all cards.
CUDA_ARCHITECTURES = "-gencode=arch=compute_80,code=[sm_80,sm_90,sm_100,compute_80]"


def wants_cuda() -> bool:
    choice = os.environ.get("DMGAN_FAST_CUDA")
    if choice not in (None, "", "0", "1"):
        raise SystemExit(f"DMGAN_FAST_CUDA must be 0 or 1, got {choice!r}")
    if choice == "1" and CUDA_HOME is None:
        raise SystemExit("DMGAN_FAST_CUDA=1 needs a CUDA toolkit: put nvcc on PATH or set CUDA_HOME")
    return choice == "1" or (not choice and CUDA_HOME is not None and torch.cuda.is_available())


PACKAGES = [
    "dmgan_fast",
    *(".".join(path.parent.parts) for path in sorted(Path("dmgan_fast").glob("*/**/__init__.py"))),
]
EXTENSIONS = [
    CppExtension(
        "dmgan_fast._C",
        sorted(map(str, Path("csrc/cpu").glob("*.cpp")), key=os.path.getsize, reverse=True),  # the longest first
        py_limited_api=True,
        extra_compile_args={"cxx": CXX_FLAGS},
    )
]
if wants_cuda():
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:
        NVCC_FLAGS.append(CUDA_ARCHITECTURES)
    EXTENSIONS.append(
        CUDAExtension(
            "dmgan_fast._cuda",
            ["csrc/cpu/module.cpp", *sorted(str(path) for path in Path("csrc/cuda").glob("*.cu"))],
            py_limited_api=True,
            extra_compile_args={"cxx": [*CXX_FLAGS, "-DDMGAN_MODULE=_cuda"], "nvcc": NVCC_FLAGS},
        )
    )

setup(
    packages=[*PACKAGES, "dmgan_fast.kernels"],
    package_dir={"dmgan_fast": "dmgan_fast", "dmgan_fast.kernels": "kernels"},
    package_data={"dmgan_fast": ["py.typed", "weights/*/*", "weights/*/*/*"], "dmgan_fast.data": ["demo_set/*"]},
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
