"""The machine's roofline: measured peaks, each op's place under them, and what named GPUs could do at best.

An op of F operations on B bytes takes at least max(F / peak, B / bandwidth). Peaks here are measured (a large matrix
product; c = a + b on arrays beyond the caches), those of GPUs are their makers' (dense, no sparsity), so that times on
GPUs are computed, not measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import Rows, Table, environment, finish, parser_of, results_of
from benchmarks.harness import spread, take_turns
from benchmarks.ops import work
from dmgan_fast.info import LEVEL_NAMES

GEMM_SIDE = 1536  # large enough for the peak, short enough to run between other users of the machine
STREAM_ELEMENTS = 1 << 24  # 64 MiB an array


@dataclass(frozen=True)
class Peaks:
    """Operations and bytes a second."""

    flops: float
    bandwidth: float

    def bound_ms(self, flops: float, nbytes: float) -> float:
        """The least time."""
        return 1e3 * max(flops / self.flops, nbytes / self.bandwidth)

    def limit(self, flops: float, nbytes: float) -> str:
        """What bounds it."""
        return "arithmetic" if flops / self.flops > nbytes / self.bandwidth else "memory"


def _card(bandwidth: float, **flops: float) -> dict[str, Peaks]:
    return {dtype: Peaks(each, bandwidth) for dtype, each in flops.items()}


# float32 on general cores (the fused kernels are exact), TF32 and bfloat16 on tensor cores; makers' data sheets.
CARDS = {
    "A100 SXM 80 GB": _card(2.04e12, float32=19.5e12, tf32=156e12, bfloat16=312e12),
    "H100 SXM": _card(3.35e12, float32=67e12, tf32=494e12, bfloat16=989e12),
    "RTX 4090": _card(1.01e12, float32=82.6e12, tf32=82.6e12, bfloat16=165e12),
    "MI300X": _card(5.3e12, float32=163.4e12, tf32=653.7e12, bfloat16=1307e12),
}
NAMES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "bfloat16"}  # both sixteen-bit types are alike
DRIVERS_NAMES = {
    "A100-SXM4-80GB": "A100 SXM 80 GB",
    "H100 80GB HBM3": "H100 SXM",
    "RTX 4090": "RTX 4090",
    "MI300X": "MI300X",
}
PAPER_BATCH = 10
ARITHMETIC = 0.3  # of the peak: below, products do not decide the time


def makers_peak(device: str, precision: str) -> float | None:
    """Dense operations a second of a GPU by the name that its driver gives it; None for one not in the table."""
    found = next((card for name, card in DRIVERS_NAMES.items() if device.endswith(name)), None)
    return CARDS[found][NAMES[precision]].flops if found else None


def measured(repeats: int = 41) -> Rows:
    """Rows of the two peaks; the fastest runs count."""
    a, b = torch.randn(GEMM_SIDE, GEMM_SIDE), torch.randn(GEMM_SIDE, GEMM_SIDE)
    product = torch.empty_like(a)
    x, y = torch.ones(STREAM_ELEMENTS), torch.ones(STREAM_ELEMENTS)
    total = torch.empty_like(x)
    runs = {"gemm": lambda: torch.mm(a, b, out=product), "stream": lambda: torch.add(x, y, out=total)}
    amount = {"gemm": 2.0 * GEMM_SIDE**3, "stream": 3.0 * x.nbytes}
    times = take_turns(runs, repeats)
    row = {"op": "peak", "direction": "forward", "implementation": "torch", "correct": True} | environment()
    return [
        row | {"case": name} | spread(found) | {"per_second": 1e3 * amount[name] / min(found)}
        for name, found in times.items()
    ]


def peaks_of(rows: Rows) -> Peaks | None:
    """From the rows of ``measured`` among others; None if they are not there."""
    found = {row["case"]: row["per_second"] for row in rows if row["op"] == "peak"}
    return Peaks(found["gemm"], found["stream"]) if {"gemm", "stream"} <= found.keys() else None


def places(rows: Rows, peaks: Peaks) -> Rows:
    """Rows with work: operations per byte, the bound, and which part of it they reach."""
    found = []
    for row in rows:
        if row.get("flops") and row.get("median_ms"):
            bound = peaks.bound_ms(row["flops"], row["bytes"])
            found.append(
                {key: row[key] for key in ("op", "case", "implementation", "direction", "median_ms")}
                | {
                    "intensity": row["flops"] / row["bytes"],
                    "gflops": row["flops"] / row["median_ms"] / 1e6,
                    "bound_ms": bound,
                    "reached": bound / row["median_ms"],
                    "limit": peaks.limit(row["flops"], row["bytes"]),
                }
            )
    return found


def bounds_of_step(rows: Rows) -> tuple[str, Table] | None:
    """What bounds each part of our step, a note and a table, from the rows of ``components`` and ``measured`` among
    others; None if they are not there."""
    peaks = peaks_of(rows)
    kinds = [row for row in rows if row["op"] == "components" and row["direction"] == "kind"]
    ours, theirs = (
        {row["case"]: row for row in kinds if row["implementation"] == name} for name in ("dmgan_fast", "authors")
    )
    if peaks is None or not ours:
        return None
    total, their_total = (sum(row["median_ms"] for row in each.values()) for each in (ours, theirs))
    all_operations = sum(row.get("operations", 0) for row in ours.values())
    body = []
    for name, row in sorted(ours.items(), key=lambda item: -item[1]["median_ms"]):
        done = row.get("operations", 0) / row["median_ms"] * 1e3
        reached = done / peaks.flops
        cells = [name, f"{row['median_ms']:.0f}", f"{row['median_ms'] / total:.1%}"]
        cells += [f"{theirs[name]['median_ms']:.0f}" if name in theirs else ""]
        counted = [f"{row.get('operations', 0) / 1e9:.1f}", f"{done / 1e9:.0f}", f"{reached:.0%}"]
        bound = "arithmetic" if reached > ARITHMETIC else "memory traffic, launches"
        body.append([*cells, *(counted if done else [""] * 3), bound])
    whole = all_operations / total * 1e3
    body.append(["all", f"{total:.0f}", "", f"{their_total:.0f}", f"{all_operations / 1e9:.1f}", f"{whole / 1e9:.0f}"])
    body[-1] += [f"{whole / peaks.flops:.0%}", ""]
    first = next(iter(ours.values()))
    direct = sum(row["operations"] for row in rows if row["op"] == "components" and row["direction"] == "operations")
    note = (
        f"A profiled step (median of {first.get('repeats', 1)}), birds B4, {LEVEL_NAMES[first['level']]}, on "
        f"{first['threads']} threads of an {first['device']} ({first['compiler']}, commit {first['commit']}). Its "
        "measured peaks: "
        f"{peaks.flops / 1e9:.0f} GFLOP/s (a matrix product) and {peaks.bandwidth / 1e9:.1f} GB/s (a sum of arrays "
        "beyond the caches). Operations are counted as they are done: a direct form of the same convolutions does "
        "36 products where these do 9 or 16."
    )
    timed = [row["median_ms"] for row in rows if row["op"] == "step" and row["implementation"] == "dmgan_fast"]
    if direct and timed:  # birds come first
        rate = direct / timed[0] * 1e3
        note += (
            f" In the cheapest form that PyTorch's convolutions offer it would be {direct / 1e9:.0f} GFLOP: by "
            f"that count the step that is not profiled reaches {rate / 1e9:.0f} GFLOP/s, "
            f"{rate / peaks.flops:.0%} of the peak."
        )
    whole_step = next((r for r in rows if r["op"] == "spectral_norm" and r["implementation"] == "whole step"), None)
    if whole_step:
        share, low, high = (whole_step[f"{p}_cost_ms"] / whole_step["median_ms"] for p in ("median", "p20", "p80"))
        note += (
            f" Spectral norm takes {share:.1%} of a step: {whole_step['median_cost_ms']:.0f} of "
            f"{whole_step['median_ms']:.0f} ms ({low:.1%} to {high:.1%}: 20th and 80th percentile of "
            f"{whole_step['repeats']} pairs of all done with discriminators, with and without it)."
        )
    heads = ["part", "ms", "of our step", "authors ms", "GFLOP done", "GFLOP/s", "of the peak", "bound by"]
    return note, Table(heads, body)


def on_cards(batch: int = PAPER_BATCH) -> Rows:
    """Computed, not measured: the least milliseconds of each op at the paper's batch, forward + backward."""
    rows = []
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        ops = {
            "memory_path 128x128": work.memory_path(batch, 64, 18, 128**2, width),
            "batch_norm_glu 128->64 256x256": work.batch_norm_glu(batch, 128, 256**2, width),
            "upsample_conv3x3 128->128 128->256": work.upsample_conv3x3(batch, 128, 128, 128**2, width),
            "words_similarity 17x17": work.words_similarity(batch, 18, 256, 17**2, width),
        }
        for op, amounts in ops.items():
            flops, nbytes = amounts["forward+backward"]
            row = {"op": op, "batch": batch, "dtype": dtype, "flops": flops, "bytes": nbytes, "computed": True}
            for card, peaks in CARDS.items():
                bound = {"bound_ms": peaks[dtype].bound_ms(flops, nbytes), "limit": peaks[dtype].limit(flops, nbytes)}
                rows.append(row | {"card": card} | bound)
    return rows


def table_of_cards() -> Table:
    """A line for each op and dtype, a column for each GPU."""
    body: dict[str, list[str]] = {}
    for row in on_cards():
        line = body.setdefault(f"{row['op']}, {row['dtype']}", [])
        line.append(f"{row['bound_ms']:.3f} ({row['limit']})")
    return Table(["op", *(f"{card}, ms" for card in CARDS)], [[name, *cells] for name, cells in body.items()])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--ops", type=Path, default=results_of() / "cpu_float32.json", help="rows of ops to place")
    arguments = parser.parse_args()
    rows = measured()
    peaks = peaks_of(rows)
    assert peaks is not None
    names = ("op", "case", "implementation", "direction")
    lines = [
        [*(p[n] for n in names), f"{p['intensity']:.1f}", f"{p['gflops']:.1f}", f"{p['reached']:.1%} of {p['limit']}"]
        for p in places(json.loads(arguments.ops.read_text()), peaks)
    ]
    title = f"measured: {peaks.flops / 1e9:.0f} GFLOP/s, {peaks.bandwidth / 1e9:.1f} GB/s"
    Table([*names, "op/B", "GFLOP/s", "reached"], lines).print(title)
    table_of_cards().print("computed, not measured, forward + backward: the least time")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
