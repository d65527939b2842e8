"""Builds the native library on PyTorch's stable ABI: one wheel per platform for CPython >= 3.10, torch >= 2.11."""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DPy_LIMITED_API=0x030a0000"]
# No -ffast-math: the kernels rely on infinities.
CXX_FLAGS = ["-O3", "-std=c++20", "-ffp-contract=fast", "-fvisibility=hidden", "-Wall", "-Wno-psabi", *STABLE_ABI]

PACKAGES = [
    "dmgan_fast",
    *(f"dmgan_fast.{path.parent.name}" for path in sorted(Path("dmgan_fast").glob("*/__init__.py"))),
]

setup(
    packages=[*PACKAGES, "dmgan_fast.kernels"],
    package_dir={"dmgan_fast": "dmgan_fast", "dmgan_fast.kernels": "kernels"},
    package_data={"dmgan_fast": ["py.typed", "weights/*/*", "weights/*/*/*"], "dmgan_fast.data": ["demo_set/*"]},
    ext_modules=[
        CppExtension(
            "dmgan_fast._C",
            sorted(str(path) for path in Path("csrc/cpu").glob("*.cpp")),
            py_limited_api=True,
            extra_compile_args={"cxx": CXX_FLAGS},
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
