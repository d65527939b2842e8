"""The CUDA library compiles without a GPU, for every architecture, and no kernel spills or uses local memory."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

SOURCES = sorted((Path(__file__).parents[2] / "csrc" / "cuda").glob("*.cu"))
TORCH = Path(torch.__file__).parent
WHEEL = TORCH.parent / "nvidia" / "cu13" / "bin" / "nvcc"  # of nvidia-cuda-nvcc
NVCC = shutil.which("nvcc") or (str(WHEEL) if WHEEL.exists() else None)
ARCHITECTURES = {
    "sm_80": "arch=compute_80,code=sm_80",
    "sm_90": "arch=compute_90,code=sm_90",
    "sm_100": "arch=compute_100,code=[sm_100,compute_100]",  # PTX as well, for later cards
}
OPTIONS = (
    "-std=c++20",
    "-O3",
    "-DUSE_CUDA",  # declares the call that gives PyTorch's current stream
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    "-isystem",
    str(TORCH / "include"),
    "-Xptxas",
    "-v,-warn-spills,-warn-lmem-usage",
)
PROPERTIES = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)


@pytest.mark.skipif(NVCC is None, reason="nvcc is neither on PATH nor in the environment")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_kernels_stay_in_registers(source: Path, architecture: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [NVCC, *OPTIONS, "-gencode", ARCHITECTURES[architecture], "-c", source, "-o", tmp_path / "kernels.o"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    log = result.stdout + result.stderr
    kernels = PROPERTIES.findall(log)
    assert len(kernels) == log.count("Compiling entry function")
    in_local_memory = [
        f"{name}: stack, stores, loads: {numbers}" for name, *numbers in kernels if any(map(int, numbers))
    ]
    assert not in_local_memory, "\n".join(in_local_memory)
    assert "warning" not in log, log
