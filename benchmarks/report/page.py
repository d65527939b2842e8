"""One self-contained page of the committed results: ``python -m benchmarks.report.page OUT.html``.

Bars against rivals, memory against time, scaling, roofline, components, environment. Figures are inline SVG.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import roofline
from benchmarks.common import Row, Rows, Table, baseline, by_case, load_rows, results_of
from dmgan_fast.errors import InputError
from dmgan_fast.files import write_text
from dmgan_fast.pages import inline_svg, write_page

OURS, THEIRS, RIVAL = "#2f6fde", "#9aa3b2", "#d3893b"
OPS = ("memory_path", "attention_read", "batch_norm_glu", "conv3x3", "upsample_conv3x3", "words_similarity")
TEMPLATE = Path(__file__).parent / "page.html"


def colour(name: str) -> str:
    """Ours, the authors' own, or another rival's."""
    if name.startswith("dmgan_fast"):
        return OURS
    return RIVAL if "compile" in name or not name.startswith("authors") else THEIRS


def _axes(rows: int, columns: int, size: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """A figure and its grid of axes."""
    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def _title(group: Rows) -> str:
    return f"{group[0]['op']} {group[0]['case']}"


def _legend(axis: Axes, **more: Any) -> None:
    """Each label once."""
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), frameon=False, **more)


def _of(rows: Rows, *ops: str) -> Rows:
    return [row for op in ops for row in rows if row["op"] == op and "axis" not in row]


# ---------------------------------------------------------------------------------------------------------- figures


def bars(rows: Rows) -> Figure:
    """Milliseconds of each implementation, one panel a case, with the ratio to the authors'."""
    cases = by_case(rows)
    heights = [len(group) for group in cases]
    figure, axes = _axes(len(cases), 1, (9, 0.34 * sum(heights) + 0.75 * len(cases)), height_ratios=heights)
    for axis, group in zip(axes[:, 0], cases, strict=True):
        reference = next((r.get("median_ms") for r in group if r["implementation"] == baseline(group)), None)
        names = [row["implementation"] for row in group]
        for place, row in enumerate(group):
            _bar(axis, place, row, reference)
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_title(_title(group), loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel("ms")
        axis.margins(x=0.22)
        axis.set_xlim(left=0)
    figure.tight_layout()
    return figure


def _bar(axis: Axes, place: int, row: Row, reference: float | None) -> None:
    if not row.get("median_ms"):
        why = " out of memory" if row.get("out_of_memory") else " wrong result"
        axis.text(0, place, why, va="center", color="#b3261e")
        axis.barh(place, 0)
        return
    median = row["median_ms"]
    error = [[median - row["p20_ms"]], [row["p80_ms"] - median]]
    axis.barh(place, median, xerr=error, color=colour(row["implementation"]), height=0.7, ecolor="#1d2430", capsize=2)
    ratio = f"   {reference / median:.2f}×" if reference else ""
    text = f"{median:,.0f}{ratio}" if median >= 100 else f"{median:.3g}{ratio}"
    axis.annotate(text, (row["p80_ms"], place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)


def speedups(rows: Rows) -> Figure:
    """How many times faster ours is than each rival, forward + backward of every op's case."""
    found = []
    for group in by_case(row for row in rows if row["direction"] == "forward+backward"):
        times = {row["implementation"]: row["median_ms"] for row in group if row.get("median_ms")}
        ours = next((ms for key, ms in times.items() if key.startswith("dmgan_fast")), None)
        if ours:
            found.append(
                (_title(group), {key: ms / ours for key, ms in times.items() if not key.startswith("dmgan_fast")})
            )
    figure, ((axis,),) = _axes(1, 1, (9, 0.42 * len(found) + 1))
    markers = {"authors": "o", "authors+compile": "s", "sdpa": "^", "reference": "x"}
    for place, (_, ratios) in enumerate(found):
        axis.plot([1, max(ratios.values(), default=1)], [place, place], color="#e3e7ee", zorder=0)
        for name, ratio in ratios.items():
            kind = next((k for k in ("authors+compile", "sdpa", "reference") if name.startswith(k)), "authors")
            axis.scatter(ratio, place, marker=markers[kind], color=colour(name), s=40, label=kind, zorder=2)
    axis.axvline(1, color=OURS)
    axis.set_xscale("log")
    ticks = [0.5, 1, 2, 4, 8]
    axis.set_xticks(ticks, [f"{tick}×" for tick in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(found)), [name for name, _ in found])
    axis.invert_yaxis()
    axis.set_xlabel("time of the rival / time of dmgan_fast (blue line: equal)")
    _legend(axis, ncol=4, loc="lower center", bbox_to_anchor=(0.4, 1))
    return figure


def memory_against_time(rows: Rows) -> Figure:
    """Peak allocation and time of each implementation."""
    cases = by_case(row for row in rows if row.get("peak_bytes") and row.get("median_ms"))
    figure, axes = _axes(1, max(len(cases), 1), (4.4 * max(len(cases), 1), 3.6))
    for axis, group in zip(axes[0], cases, strict=False):
        for row in group:
            x, y = row["median_ms"], row["peak_bytes"] / 2**20
            axis.scatter(x, y, color=colour(row["implementation"]), s=50)
            axis.annotate(row["implementation"], (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axis.set_title(_title(group), loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel("ms")
        axis.set_ylabel("peak MiB")
        axis.margins(0.35, 0.2)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    figure.tight_layout()
    return figure


def scaling(rows: Rows) -> Figure:
    """One panel for each op and axis; a cross: out of memory."""
    panels = {(row["op"], row["axis"]): [] for row in rows}
    for row in rows:
        panels[row["op"], row["axis"]].append(row)
    ops, axes_names = list(dict.fromkeys(op for op, _ in panels)), list(dict.fromkeys(axis for _, axis in panels))
    figure, grid = _axes(len(ops), len(axes_names), (2.7 * len(axes_names), 2.3 * len(ops)))
    for i, op in enumerate(ops):
        for j, name in enumerate(axes_names):
            axis = grid[i][j]
            if (op, name) not in panels:
                axis.axis("off")
                continue
            for implementation in dict.fromkeys(row["implementation"] for row in panels[op, name]):
                mine = [row for row in panels[op, name] if row["implementation"] == implementation]
                timed = [row for row in mine if row.get("median_ms")]
                values, times = [row["value"] for row in timed], [row["median_ms"] for row in timed]
                axis.plot(values, times, "o-", color=colour(implementation), label=implementation, markersize=4)
                for row in mine:
                    if row.get("out_of_memory"):
                        axis.scatter(row["value"], max(times, default=1), marker="x", color="#b3261e")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            ticks = sorted({row["value"] for row in panels[op, name]})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            axis.set_title(f"{op}: {name}", fontsize=9, loc="left")
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
    grid[0][0].set_ylabel("ms")
    grid[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def roof(rows: Rows) -> Figure:
    """Each op under the measured peaks; forward + backward."""
    figure, ((axis,),) = _axes(1, 1, (9, 4.8))
    peaks = roofline.peaks_of(rows)
    assert peaks is not None
    ridge = peaks.flops / peaks.bandwidth
    line = [0.05, ridge, 4000]
    axis.plot(line, [min(peaks.flops, x * peaks.bandwidth) / 1e9 for x in line], color="#1d2430")
    axis.text(4000, peaks.flops / 1e9, f"{peaks.flops / 1e9:.0f} GFLOP/s ", ha="right", va="bottom", fontsize=9)
    axis.text(0.06, 0.07 * peaks.bandwidth / 1e9, f"{peaks.bandwidth / 1e9:.1f} GB/s", rotation=33, fontsize=9)
    markers = dict(zip(OPS, "ovsPD^", strict=True))
    for place in roofline.places(_of(rows, *OPS), peaks):
        if place["direction"] != "forward+backward":
            continue
        ours = place["implementation"].startswith("dmgan_fast")
        if ours or (place["implementation"].startswith("authors") and "compile" not in place["implementation"]):
            axis.scatter(
                place["intensity"],
                place["gflops"],
                marker=markers[place["op"]],
                color=colour(place["implementation"]),
                label=place["op"] if ours else None,
                s=42,
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations per byte that must move")
    axis.set_ylabel("GFLOP/s")
    _legend(axis, loc="lower right", title="blue: ours, gray: authors'")
    return figure


def components(rows: Rows) -> Figure:
    """Stacked milliseconds of a step, by phase and by kind of operator."""
    figure, axes = _axes(2, 1, (9, 4.6))
    palette = matplotlib.colormaps["tab10"]
    for axis, direction in zip(axes[:, 0], ("phase", "kind"), strict=True):
        mine = [row for row in rows if row["direction"] == direction]
        names = list(dict.fromkeys(row["case"] for row in mine))
        for place, implementation in enumerate(("authors", "dmgan_fast")):
            left = 0.0
            for number, name in enumerate(names):
                width = sum(r["median_ms"] for r in mine if (r["case"], r["implementation"]) == (name, implementation))
                axis.barh(place, width, left=left, color=palette(number), label=name if not place else None)
                left += width
            axis.text(left * 1.01, place, f"{left:,.0f} ms", va="center", fontsize=9)
        axis.set_yticks((0, 1), ("authors", "dmgan_fast"))
        axis.invert_yaxis()
        axis.set_title(f"by {direction}", loc="left", fontsize=10, fontweight="bold")
        axis.margins(x=0.12)
        if names:
            axis.legend(frameon=False, fontsize=8, ncol=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.tight_layout()
    return figure


# ------------------------------------------------------------------------------------------------------------- page


# Name in the template → the rows it shows, and their figure.
SECTIONS: dict[str, tuple[Callable[[Rows], Rows], Callable[[Rows], Figure]]] = {
    "steps": (lambda rows: _of(rows, "step", "sampling", "start"), bars),
    "batches": (lambda rows: _of(rows, "throughput"), bars),
    "ops": (lambda rows: _of(rows, *OPS), speedups),
    "memory": (lambda rows: _of(rows, "step", "sampling"), memory_against_time),
    "scaling": (lambda rows: [row for row in rows if "axis" in row], scaling),
    "roofline": (lambda rows: rows if roofline.peaks_of(rows) else [], roof),
    "components": (lambda rows: _of(rows, "components"), components),
}


def write(rows: Rows, file: Path) -> None:
    """The page.

    Raises:
        InputError: without rows.
    """
    names = ("device", "dtype", "threads", "allocator")
    machines = dict.fromkeys((*(row[name] for name in names), row["versions"]["torch"]) for row in rows)
    write_page(
        file,
        TEMPLATE,
        figures={name: inline_svg(draw(chosen)) for name, (chosen, draw) in _with_results(rows).items()},
        bounds=roofline.bounds_of_step(rows),
        batch=roofline.PAPER_BATCH,
        gpus=roofline.table_of_cards(),
        environment=Table([*names, "torch"], list(machines)),
    )


def first_figure(rows: Rows, file: Path) -> None:
    """The figure of the first section that has results alone, for README.

    Raises:
        InputError: without rows.
    """
    chosen, draw = next(iter(_with_results(rows).values()))
    write_text(file, inline_svg(draw(chosen)))


def _with_results(rows: Rows) -> dict[str, tuple[Rows, Callable[[Rows], Figure]]]:
    found = {name: (chosen, draw) for name, (choose, draw) in SECTIONS.items() if (chosen := choose(rows))}
    if not found:
        raise InputError("report: there are no results; run `python -m benchmarks.all` first")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the page to write")
    parser.add_argument("--results", type=Path, default=results_of(), help="folder (default: the committed ones)")
    parser.add_argument("--figure", type=Path, help="also the first figure, as SVG")
    arguments = parser.parse_args()
    rows = load_rows(arguments.results)
    write(rows, arguments.out)
    if arguments.figure:
        first_figure(rows, arguments.figure)


if __name__ == "__main__":
    main()
