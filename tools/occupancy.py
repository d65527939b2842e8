"""Write docs/occupancy.md: what the GPU kernels need, from binaries compiled offline. Needs Triton and nvcc, no GPU.

python -m tools.occupancy
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from dmgan_fast.files import write_text
from tests.kernels import launches
from tests.kernels.offline import Binary, compile_launches
from tests.simt.test_nvcc import NVCC, OPTIONS, SOURCES

PAGE = Path(__file__).parents[1] / "docs" / "occupancy.md"
REGISTERS, WARPS, BLOCKS = 65536, 64, 32  # of a multiprocessor, sm_80 to sm_100
SHARED_KIB = {"sm_80": 164, "sm_90": 228, "sm_100": 228}
CUDA_CARD = "sm_90"
LAUNCHES: dict[str, tuple[Callable[..., None], tuple[int, ...]]] = {
    "memory_write, C = 64": (launches.memory_write, (64,)),
    "memory_read, C = 64": (launches.memory_read, (64,)),
    "batch_norm_glu": (launches.batch_norm_glu, ()),
    "upsample_conv3x3": (launches.upsample_conv3x3, ()),
    "words_similarity": (launches.words_similarity, ()),
}
HEAD = """# What the GPU kernels need

Written by `python -m tools.occupancy` from binaries compiled offline; **unverified on GPU**. Occupancy is the share of
a multiprocessor's 64 warps that registers and shared memory allow; more is not always faster. No kernel listed has
spills or other local memory (tests/kernels/test_offline*.py, tests/simt/test_nvcc.py). float32: exact products. The
numbers are those of Triton VERSION; 3.6 needs 144 registers for memory_read's float32 forward on sm_90.
"""


def occupancy(binary: Binary) -> float:
    registers = -(-binary.registers // 8) * 8 * 32  # of a warp; handed out in eights
    blocks = min(BLOCKS, WARPS // binary.warps, REGISTERS // registers // binary.warps)
    if binary.shared_bytes:
        blocks = min(blocks, SHARED_KIB[binary.target] * 1024 // (binary.shared_bytes + 1024))
    return blocks * binary.warps / WARPS


def triton_rows() -> Iterator[str]:
    yield "| op | kernel | dtype | architecture | registers | shared KiB | tensor cores | occupancy |"
    yield "|---|---|---|---|---|---|---|---|"
    for op, (launch, sizes) in LAUNCHES.items():
        for dtype in (torch.bfloat16, torch.float32):
            for target in SHARED_KIB:
                seen = set()
                for binary in compile_launches(launch, dtype, launches.NHWC, *sizes, target=target):
                    assert binary.local_bytes == 0, binary
                    row = (
                        f"| {op} | `{binary.kernel.strip('_')}` | {str(dtype)[6:]} | {target} | {binary.registers} "
                        f"| {binary.shared_bytes / 1024:.1f} | {', '.join(binary.tensor_core) or 'no'} "
                        f"| {occupancy(binary):.0%} |"
                    )
                    if row not in seen:
                        yield row
                    seen.add(row)


def cuda_rows() -> Iterator[str]:
    yield "| file | kernels | architecture | registers, least to most |"
    yield "|---|---|---|---|"
    for source in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            command = [NVCC, *OPTIONS, "-c", source, "-o", f"{folder}/kernels.o"]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
        used = re.findall(rf"for '{CUDA_CARD}'(?:.|\n)*?Used (\d+) registers", result.stderr + result.stdout)
        registers = [int(n) for n in used]
        if registers:
            yield f"| `{source.name}` | {len(registers)} | {CUDA_CARD} | {min(registers)}–{max(registers)} |"


def main() -> None:
    parts = [HEAD.replace("VERSION", version("triton")), "## Triton\n", *triton_rows(), "", "## CUDA\n", *cuda_rows()]
    write_text(PAGE, "\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
