"""The CUDA library compiles and loads without a GPU, for every architecture; no kernel spills or uses local memory, and
products of sixteen-bit tiles run on tensor cores.
"""

import fcntl
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.offline import disassemble

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
TORCH = Path(torch.__file__).parent
WHEEL = TORCH.parent / "nvidia" / "cu13" / "bin" / "nvcc"  # of nvidia-cuda-nvcc
NVCC = shutil.which("nvcc") or (str(WHEEL) if WHEEL.exists() else None)
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
OPTIONS = (
    "-std=c++20",
    "-O3",
    "-DUSE_CUDA",  # declares the call that gives PyTorch's current stream
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    "-gencode=arch=compute_80,code=[sm_80,sm_90,sm_100,compute_80]",  # as setup.py builds
    "-isystem",
    str(TORCH / "include"),
    "-Xptxas",
    "-v,-warn-spills,-warn-lmem-usage",
    "-Xcompiler",
    "-fPIC",
)
PROPERTIES = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
# Kernels that multiply tiles (csrc/cuda/tile.cuh), by source.
TILED = {"upsample_conv3x3": ("upsample_conv3x3_map_kernel", "upsample_conv3x3_grad_weight_kernel")}


needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is neither on PATH nor in the environment")


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where this run's object files are, those of other worker processes too."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "nvcc"
    folder.mkdir(exist_ok=True)
    return folder


def compiled(source: Path, objects: Path) -> tuple[Path, str]:
    """The object file, compiled once in a run, and what the compiler said."""
    binary, log = objects / f"{source.stem}.o", objects / f"{source.stem}.log"
    with open(objects / f"{source.stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not log.exists():
            result = subprocess.run([NVCC, *OPTIONS, "-c", source, "-o", binary], capture_output=True, text=True)
            assert result.returncode == 0, result.stdout + result.stderr
            log.write_text(result.stdout + result.stderr)
    return binary, log.read_text()


@needs_nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_kernels_stay_in_registers_and_use_tensor_cores(source: Path, objects: Path) -> None:
    binary, log = compiled(source, objects)
    kernels = PROPERTIES.findall(log)
    counts = [log.count(f"for '{architecture}'") for architecture in ARCHITECTURES]
    assert counts == [len(kernels) / len(ARCHITECTURES)] * len(ARCHITECTURES)
    in_local_memory = [
        f"{name}: stack, stores, loads: {numbers}" for name, *numbers in kernels if any(map(int, numbers))
    ]
    assert not in_local_memory, "\n".join(in_local_memory)
    assert "warning" not in log, log
    if source.stem in TILED:
        assert_tiles_are_multiplied_by_tensor_cores(disassemble(binary), TILED[source.stem])


def assert_tiles_are_multiplied_by_tensor_cores(code: str, names: tuple[str, ...]) -> None:
    """Sixteen bits: by HMMA from matrices that LDSM loads; float32: exactly, one by one."""
    functions = re.split(r"Function : (\S+)", code)[1:]
    products = 0
    for function, body in zip(functions[::2], functions[1::2], strict=True):
        if any(name in function for name in names):
            instructions = set(re.findall(r"\b(HMMA|LDSM|FFMA)\b", body))
            exact = "BFloat16" not in function and "Half" not in function
            assert instructions >= ({"FFMA"} if exact else {"HMMA", "LDSM"}), function
            assert exact or not re.search(r"\bLD\.E", body), f"{function} loads from an unknown kind of memory"
            assert not exact or "HMMA" not in instructions, function
            products += 1
    assert products >= 3 * len(names) * len(ARCHITECTURES)


LOAD = """
import sys
from pathlib import Path
import torch
from torch._subclasses import FakeTensorMode
from dmgan_fast import native
native.library_file = lambda *_: Path(sys.argv[1])
operators = native.load("cuda")
with FakeTensorMode():
    mean, _ = operators.batch_norm_glu_statistics(torch.empty(2, 6, 4, 4, device="cuda"))
print(*mean.shape)
"""


@needs_nvcc
@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch has no CUDA libraries to link with")
def test_the_library_loads_in_a_fresh_process_and_tells_shapes(objects: Path, tmp_path: Path) -> None:
    library = tmp_path / "_cuda.abi3.so"
    binaries = [compiled(source, objects)[0] for source in SOURCES]
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-ltorch_cuda", "-lc10", "-Xlinker", f"-rpath={TORCH / 'lib'}"]
    subprocess.run([NVCC, "-shared", *binaries, "-o", library, *libraries], check=True)
    result = subprocess.run([sys.executable, "-c", LOAD, library], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.split() == ["6"], result.stderr
