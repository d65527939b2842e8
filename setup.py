"""Builds the native libraries on PyTorch's stable ABI: one wheel per platform for CPython >= 3.10, torch >= 2.11.

The CPU library is built once for each level of CPU (``LEVELS``), from all of ``csrc/cpu`` with flags of its own and as
a library of its own, so that no code of a higher level can get into a lower one; ``dmgan_fast/native.py`` loads the
best one. ``DMGAN_FAST_CUDA=1`` (or 0) decides whether the CUDA library is built; with ``auto``, or unset, it is where
PyTorch sees a GPU and a CUDA toolkit. ``TORCH_CUDA_ARCH_LIST`` overrides the architectures, at the price of a front
end's run for each; ``MAX_JOBS`` is how many files compile at once. Nothing is downloaded. Without a working C++20
compiler the package is made without native code, and says so when it is used (docs/install.md).
"""

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit(
        "dmgan_fast is built against PyTorch, which this environment lacks: `pip install torch setuptools wheel "
        "ninja`, or leave out --no-build-isolation, and pip gets them for the build"
    ) from None
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
    raise SystemExit(
        f"dmgan_fast needs torch 2.11 or newer, this environment has {torch.__version__}: `pip install 'torch>=2.11'`"
    )

from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

# Flags by level, for this kind of machine.
LEVELS = {
    "x86_64": {"sse2": ["-march=x86-64"], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]},
    "aarch64": {"neon": ["-march=armv8-a"]},
}
MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())

TORCH_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# No -ffast-math: the kernels rely on infinities.
CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", TORCH_ABI]
# Flags that Python was built with come before these. By -fno-strict-overflow, which Python 3.13 has, GCC 12 gets the
# gradient of upsample_conv3x3's weight wrong in AVX-512. That is the compiler's fault, as far as is known: with that
# flag tests/native/cross.cpp fails at -O3, and -fsanitize=undefined finds nothing in it.
CXX_FLAGS += ["-fstrict-overflow"]
CXX_FLAGS += ["-Wno-psabi", "-Wno-maybe-uninitialized"]  # the latter: GCC 12's own AVX-512 header
# A register spilled to local memory is an error, not a surprise.
NVCC_FLAGS = ["-O3", "-std=c++20", "-DUSE_CUDA", "-Xptxas", "-warn-spills,-warn-lmem-usage,-Werror", TORCH_ABI]
# The kernels ask for nothing that sm_80 lacks: one front end's run (two thirds of the time) serves all cards.
CUDA_ARCHITECTURES = "-gencode=arch=compute_80,code=[sm_80,sm_90,sm_100,compute_80]"


PROBE = "#include <concepts>\n#include <Python.h>\ntemplate <std::integral T> T same(T x) { return x; }\n"


def why_no_compiler() -> str | None:
    """None if the compiler that PyTorch would use takes C++20 and finds Python's headers, else the reason."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    command = [*compiler, "-std=c++20", "-I", sysconfig.get_path("include"), "-fsyntax-only", "-x", "c++", "-"]
    try:
        done = subprocess.run(command, input=PROBE, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{compiler[0]}: {error.strerror}"
    return None if done.returncode == 0 else f"{compiler[0]}: {(done.stderr.strip().splitlines() or ['it fails'])[0]}"


def wants_cuda() -> bool:
    choice = os.environ.get("DMGAN_FAST_CUDA") or "auto"
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"DMGAN_FAST_CUDA must be auto, 0 or 1, got {choice!r}")
    if choice == "1" and CUDA_HOME is None:
        raise SystemExit("DMGAN_FAST_CUDA=1 needs a CUDA toolkit: put nvcc on PATH or set CUDA_HOME")
    return choice == "1" or (choice == "auto" and CUDA_HOME is not None and torch.cuda.is_available())


class Build(BuildExtension):
    """Keeps the objects of each library apart: the levels are made from the same sources."""

    def build_extension(self, extension):
        shared, self.build_temp = self.build_temp, os.path.join(self.build_temp, extension.name)
        # Tests look up the machine code of hot functions: symbols stay in a library built in place, or with --debug.
        extension.extra_link_args = [] if self.inplace or self.editable_mode or self.debug else ["-s"]
        super().build_extension(extension)
        self.build_temp = shared


def cpu_library(level: str, flags: list[str]) -> CppExtension:
    return CppExtension(
        f"dmgan_fast._cpu_{level}",
        sorted(map(str, Path("csrc/cpu").glob("*.cpp")), key=os.path.getsize, reverse=True),  # the longest first
        py_limited_api=True,
        define_macros=[("DMGAN_CPU", f"dmgan_fast_cpu_{level}"), ("DMGAN_MODULE", f"_cpu_{level}")],
        extra_compile_args={"cxx": [*CXX_FLAGS, *flags]},
    )


PACKAGES = [
    "dmgan_fast",
    *(".".join(path.parent.parts) for path in sorted(Path("dmgan_fast").glob("*/**/__init__.py"))),
]


def extensions() -> list[CppExtension]:
    """The libraries to build; none without a compiler, which is an error only for those who asked for CUDA."""
    reason, cuda = why_no_compiler(), wants_cuda()
    if reason and os.environ.get("DMGAN_FAST_CUDA") == "1":
        raise SystemExit(f"DMGAN_FAST_CUDA=1 needs a C++20 compiler: {reason}")
    if reason:
        print(f"dmgan_fast is made without native code, for lack of a C++20 compiler: {reason}", file=sys.stderr)
        return []
    levels = LEVELS.get(MACHINE, {"portable": []})
    found = [
        CppExtension(
            "dmgan_fast._cpu", ["csrc/cpu_levels.cpp"], py_limited_api=True, extra_compile_args={"cxx": CXX_FLAGS}
        ),
        *(cpu_library(level, flags) for level, flags in levels.items()),
    ]
    return [*found, cuda_library()] if cuda else found


def cuda_library() -> CUDAExtension:
    flags = NVCC_FLAGS if "TORCH_CUDA_ARCH_LIST" in os.environ else [*NVCC_FLAGS, CUDA_ARCHITECTURES]
    return CUDAExtension(
        "dmgan_fast._cuda",
        ["csrc/cpu/module.cpp", *sorted(str(path) for path in Path("csrc/cuda").glob("*.cu"))],
        py_limited_api=True,
        extra_compile_args={"cxx": [*CXX_FLAGS, "-DDMGAN_MODULE=_cuda"], "nvcc": flags},
    )


setup(
    packages=[*PACKAGES, "dmgan_fast.kernels"],
    package_dir={"dmgan_fast": "dmgan_fast", "dmgan_fast.kernels": "kernels"},
    package_data={
        "dmgan_fast": ["py.typed", "templates/*", "weights/*/*", "weights/*/*/*"],
        "dmgan_fast.data": ["demo_set/*"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
