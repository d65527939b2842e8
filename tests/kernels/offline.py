"""Kernels compiled without a GPU, exactly as an op's function launches them: what the binaries need.

``compile_launches(call, *arguments, target=...)`` runs ``call(*arguments)`` on CPU tensors in a process of its own, as
this one may interpret Triton; there each launch only compiles for the target.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

# What a program may have of shared memory. 99 KiB: every NVIDIA GPU, those of consumers, too.
SHARED_BYTES = {"sm_80": 99 * 1024, "sm_89": 99 * 1024, "sm_90": 99 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
TARGETS = tuple(SHARED_BYTES)
FEW_BYTES = 16  # of spilled registers a thread, which stay in L1: allowed in TF32, and with Triton before 3.8
SMALLEST_PRODUCT = (1, 1, 16)  # rows, columns and summed axis that Triton 3.6 asks for; 3.8 takes shorter sums
# HMMA: mma.sync, HGMMA: wgmma, UTCHMMA: tcgen05; v_mfma: CDNA's matrix cores
TENSOR_CORE = re.compile(r"\b(?:[HQ]G?MMA|UTC[HQ]MMA|v_s?mfmac?_\w+)\b")


@dataclass(frozen=True)
class Binary:
    """What one compiled kernel needs; registers and local memory (stack, where spills go) per thread."""

    kernel: str
    target: str
    warps: int
    registers: int
    local_bytes: int
    shared_bytes: int
    tensor_core: tuple[str, ...]


def compile_launches(call: Callable[..., object], *arguments: object, target: str, tf32: bool = False) -> list[Binary]:
    """The kernels that ``call(*arguments)`` launches, in order, with exact float32 products or in TF32. ``call`` is a
    function of a module, its arguments pickle; it makes CPU tensors and must not look at their values, as nothing is
    computed.
    """
    return _worker().submit(_compile_launches, call, arguments, target, tf32).result()


@cache
def _worker() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a fork would inherit Triton as it was imported here
    return ProcessPoolExecutor(1, context, initializer=_compile_instead_of_interpreting)


def _compile_instead_of_interpreting() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


def _compile_launches(
    call: Callable[..., object], arguments: tuple[object, ...], target: str, tf32: bool
) -> list[Binary]:
    from triton.backends.nvidia import compiler
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    compiler.min_dot_size = lambda target: lambda lhs, rhs: SMALLEST_PRODUCT
    compiled = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        compiled.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    torch.backends.fp32_precision = "tf32" if tf32 else "ieee"
    torch.backends.cudnn.conv.fp32_precision = torch.backends.fp32_precision  # torch 2.11 does not pass it on
    JITFunction.run = compile_only
    driver.set_active(_Absent(target))
    hip, torch.version.hip = torch.version.hip, target if target.startswith("gfx") else None  # as where the GPU is
    try:
        call(*arguments)
    finally:
        JITFunction.run, torch.version.hip = run, hip
    return [_inspect(kernel, target) for kernel in compiled]


class _Absent:
    """A driver for a device that is not here; its number keeps the targets' compiled kernels apart."""

    def __init__(self, target: str) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return TARGETS.index(self.target)

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        if self.target.startswith("gfx"):
            return GPUTarget("hip", self.target, 64)
        return GPUTarget("cuda", int(self.target.removeprefix("sm_")), 32)


def _inspect(kernel: Any, target: str) -> Binary:
    metadata = kernel.metadata
    if "cubin" in kernel.asm:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            code = disassemble(Path(file.name))
        usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", code))
        registers, local_bytes = int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"])
    else:
        code = kernel.asm["amdgcn"]
        usage = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count|private_segment_fixed_size):\s+(\d+)", code))
        registers, local_bytes = int(usage["vgpr_count"]), int(usage["private_segment_fixed_size"])
        local_bytes = max(local_bytes, 4 * int(usage["vgpr_spill_count"]))
    return Binary(
        kernel=metadata.name,
        target=target,
        warps=metadata.num_warps,
        registers=registers,
        local_bytes=local_bytes,
        shared_bytes=metadata.shared,
        tensor_core=tuple(sorted(set(TENSOR_CORE.findall(code)))),
    )


def disassemble(binary: Path) -> str:
    """Machine code and needs of the NVIDIA kernels in a binary, by the disassembler that comes with Triton."""
    spec = importlib.util.find_spec("triton")  # not imported: that would settle whether it interprets
    assert spec is not None
    assert spec.origin is not None
    cuobjdump = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([cuobjdump, "-sass", "-res-usage", binary], capture_output=True, text=True, check=True).stdout
