"""With AVX-512: what depends on PyTorch's own kernels runs once more with all of them, and ours, kept to AVX2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmgan_fast import native

ROOT = Path(__file__).parents[2]
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    native.LEVEL_VARIABLE: "avx2",
}
CHOSEN = {
    "tests/training/planning/test_measure.py": "predicted_peak and not tile",
    "tests/modules/test_spectral_norm.py": "spectral",
}

pytestmark = pytest.mark.skipif(native.cpu_levels()[0] != "avx512", reason="the whole suite runs at this CPU's level")


def run(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | AVX2
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_all_kernels_are_kept_to_avx2():
    told = "import torch; from dmgan_fast import native\n"
    told += "print(torch.backends.cpu.get_cpu_capability(), native.cpu_level())"
    assert run("-c", told).split() == ["AVX2", "avx2"]


@pytest.mark.parametrize("file", CHOSEN)
def test_they_pass_with_avx2_alone(file: str):
    assert " passed" in run("-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", file, "-k", CHOSEN[file])
