"""NVIDIA's own tools over single calls of the ops: compute-sanitizer for faults, Nsight Compute for the top kernels.

``python -m benchmarks.gpu.tools`` is what they watch: every op once on one backend, or a planted fault.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.common import ROOT
from benchmarks.gpu.cases import birds, make, odd
from benchmarks.gpu.stages import Options, Row, Skipped
from benchmarks.precision import set_precision

FOUND = 9  # the sanitizer's exit status where it found a fault
CHECKERS = ("memcheck", "racecheck")
KERNELS = 40  # launches that Nsight Compute profiles
METRICS = {
    "gpu__time_duration.sum": "nanoseconds",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "processors_percent",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed": "memory_percent",
}


def sanitizer(options: Options) -> Iterator[Row]:
    """Odd shapes of every op under each checker, all at once; first a fault that memcheck must find, else its silence
    says nothing.

    Raises:
        Skipped: if compute-sanitizer is not installed.
        RuntimeError: if the planted fault is not found.
    """
    tool = _tool("compute-sanitizer")
    planted = _watched([tool, "--tool", "memcheck", "--error-exitcode", str(FOUND)], ["--plant"], options)
    yield {"case": "planted fault", "found": planted.returncode == FOUND}
    if planted.returncode != FOUND:
        raise RuntimeError(f"memcheck did not find the planted fault, it left with {planted.returncode}")
    runs = [(checker, backend) for checker in CHECKERS for backend in ("cuda", "triton")]
    with ThreadPoolExecutor(len(runs)) as pool:  # each waits for a process, which takes long to start
        commands = [[tool, "--tool", checker, "--error-exitcode", str(FOUND)] for checker, _ in runs]
        ended = [
            pool.submit(_watched, command, ["--backend", backend], options)
            for command, (_, backend) in zip(commands, runs, strict=True)
        ]
        for (checker, backend), waiting in zip(runs, ended, strict=True):
            done = waiting.result()
            row: Row = {"case": checker, "implementation": f"dmgan_fast, {backend}", "correct": done.returncode == 0}
            yield row | ({"failed": done.stdout[-300:]} if done.returncode else {})


def profiler(options: Options) -> Iterator[Row]:
    """Time and share of the GPU's peaks of each kernel at birds' widths in bfloat16, longest first.

    Raises:
        Skipped: if Nsight Compute is not installed.
        RuntimeError: if it could not read the counters.
    """
    command = [_tool("ncu"), "--clock-control", "none", "--csv", "--metrics", ",".join(METRICS)]
    command += ["--kernel-name", "regex:batch_norm|memory_|upsample|words|_kernel", "--launch-count", str(KERNELS)]
    done = _watched(command, ["--birds"], options)
    kernels = parse(done.stdout)
    if done.returncode or not kernels:
        raise RuntimeError(f"Nsight Compute left with {done.returncode}: {done.stdout[-300:]}")
    yield from kernels


def parse(text: str) -> list[Row]:
    """A row for each kernel in the CSV that Nsight Compute prints among other lines: its longest launch."""
    lines = text.splitlines()
    start = next((k for k, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    launches: dict[str, Row] = {}
    for line in csv.DictReader(lines[start:]):
        name = METRICS.get(line.get("Metric Name") or "")
        if name:
            launch = launches.setdefault(line["ID"], {"case": line["Kernel Name"].partition("(")[0]})
            value = float(line["Metric Value"].replace(",", ""))
            launch[name] = value * {"us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6}.get(line["Metric Unit"], 1)
    longest: dict[str, Row] = {}
    for launch in sorted(launches.values(), key=lambda found: -found.get("nanoseconds", 0.0)):
        longest.setdefault(launch["case"], launch)
    return list(longest.values())


def _tool(name: str) -> str:
    toolkit = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which(name) or shutil.which(name, path=f"{toolkit}/bin")
    if found is None:
        raise Skipped(f"{name} is not installed")
    return found


def _watched(command: list[str], arguments: list[str], options: Options) -> subprocess.CompletedProcess[str]:
    whole = [*command, sys.executable, "-m", "benchmarks.gpu.tools", "--device", options.device, *arguments]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else a block hides where it ends
    done = subprocess.run(
        whole, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print(done.stdout, flush=True)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--plant", action="store_true", help="write beyond a tensor instead")
    parser.add_argument("--birds", action="store_true", help="at birds' widths in bfloat16, not odd shapes in float32")
    arguments = parser.parse_args()
    if arguments.plant:
        from benchmarks.gpu.planted import write_beyond  # which needs Triton

        return write_beyond(arguments.device)
    precision = "bf16" if arguments.birds else "fp32"
    set_precision(precision)
    for op, settings in birds(10) if arguments.birds else odd():
        case = make(op, settings, precision, arguments.device)
        name = "dmgan_fast" if arguments.backend == "auto" else f"dmgan_fast, {arguments.backend}"
        case.both(case.implementations[name])


if __name__ == "__main__":
    main()
