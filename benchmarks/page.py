"""One self-contained page of the committed results: ``python -m benchmarks.page OUT.html``.

Bars against rivals, memory against time, scaling, roofline, components, environment. Figures are inline SVG.
"""

from __future__ import annotations

import argparse
import html
import io
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import roofline
from benchmarks.harness import baseline, load_rows, results_of
from dmgan_fast.errors import InputError
from dmgan_fast.files import replace_file
from dmgan_fast.report import STYLE

Rows = list[dict[str, Any]]
OURS, THEIRS, RIVAL = "#2f6fde", "#9aa3b2", "#d3893b"
OPS = ("memory_path", "attention_read", "batch_norm_glu", "conv3x3", "upsample_conv3x3", "words_similarity")
EXTRA = """
svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; font-size: 13.5px; } td, th { padding: 4px 10px; text-align: left;
  border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
"""
plt.rcParams.update({"font.size": 10, "svg.fonttype": "none", "font.family": "sans-serif", "axes.spines.top": False})
plt.rcParams.update({"axes.spines.right": False, "axes.axisbelow": True, "svg.hashsalt": "dmgan_fast"})


def colour(name: str) -> str:
    """Ours, the authors' own, or another rival's."""
    if name.startswith("dmgan_fast"):
        return OURS
    return RIVAL if "compile" in name or not name.startswith("authors") else THEIRS


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _cases(rows: Iterable[dict[str, Any]]) -> list[tuple[str, Rows]]:
    def key(row: dict[str, Any]) -> tuple[str, str]:
        return row["op"], row["case"]

    return [(" ".join(name), list(group)) for name, group in groupby(rows, key=key)]


def _of(rows: Rows, *ops: str) -> Rows:
    return [row for op in ops for row in rows if row["op"] == op and "axis" not in row]


# ---------------------------------------------------------------------------------------------------------- figures


def bars(rows: Rows) -> Figure:
    """Milliseconds of each implementation, one panel a case, with the ratio to the authors'."""
    cases = _cases(rows)
    heights = [len(group) for _, group in cases]
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(9, 0.34 * sum(heights) + 0.75 * len(cases)), squeeze=False, height_ratios=heights
    )
    for axis, (name, group) in zip(axes[:, 0], cases, strict=True):
        reference = next((r.get("median_ms") for r in group if r["implementation"] == _reference(group)), None)
        names = [row["implementation"] for row in group]
        for place, row in enumerate(group):
            _bar(axis, place, row, reference)
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel("ms")
        axis.margins(x=0.22)
        axis.set_xlim(left=0)
    figure.tight_layout()
    return figure


def _reference(group: Rows) -> str | None:
    return baseline(group) if any(row["implementation"].startswith("authors") for row in group) else None


def _bar(axis: Axes, place: int, row: dict[str, Any], reference: float | None) -> None:
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
    for name, group in _cases(row for row in rows if row["direction"] == "forward+backward"):
        times = {row["implementation"]: row["median_ms"] for row in group if row.get("median_ms")}
        ours = next((ms for key, ms in times.items() if key.startswith("dmgan_fast")), None)
        if ours:
            found.append((name, {key: ms / ours for key, ms in times.items() if not key.startswith("dmgan_fast")}))
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(found) + 1))
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
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), frameon=False, ncol=4, loc="lower center", bbox_to_anchor=(0.4, 1))
    return figure


def memory_against_time(rows: Rows) -> Figure:
    """Peak allocation and time of each implementation."""
    cases = [(name, [r for r in group if r.get("peak_bytes") and r.get("median_ms")]) for name, group in _cases(rows)]
    cases = [(name, group) for name, group in cases if group]
    figure, axes = plt.subplots(1, max(len(cases), 1), figsize=(4.4 * max(len(cases), 1), 3.6), squeeze=False)
    for axis, (name, group) in zip(axes[0], cases, strict=False):
        for row in group:
            x, y = row["median_ms"], row["peak_bytes"] / 2**20
            axis.scatter(x, y, color=colour(row["implementation"]), s=50)
            axis.annotate(row["implementation"], (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axis.set_title(name, loc="left", fontsize=10, fontweight="bold")
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
    figure, grid = plt.subplots(
        len(ops), len(axes_names), figsize=(2.7 * len(axes_names), 2.3 * len(ops)), squeeze=False
    )
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
    figure, axis = plt.subplots(figsize=(9, 4.8))
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
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), frameon=False, loc="lower right", title="blue: ours, gray: authors'")
    return figure


def components(rows: Rows) -> Figure:
    """Stacked milliseconds of a step, by phase and by kind of operator."""
    figure, axes = plt.subplots(2, 1, figsize=(9, 4.6))
    palette = plt.get_cmap("tab10")
    for axis, direction in zip(axes, ("phase", "kind"), strict=True):
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


def _table(head: list[str], body: list[list[str]]) -> str:
    def cells(values: list[str], tag: str) -> str:
        kinds = ["" if k == 0 or not v[:1].isdigit() else ' class="number"' for k, v in enumerate(values)]
        return "".join(f"<{tag}{kind}>{html.escape(v)}</{tag}>" for kind, v in zip(kinds, values, strict=True))

    lines = [f"<tr>{cells(head, 'th')}</tr>", *(f"<tr>{cells(row, 'td')}</tr>" for row in body)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _environment(rows: Rows) -> str:
    names = ("device", "dtype", "threads", "allocator")
    found = dict.fromkeys((*(str(row[name]) for name in names), row["versions"]["torch"]) for row in rows)
    return _table([*names, "torch"], [list(each) for each in found])


def _cards() -> str:
    rows = roofline.on_cards()
    cards = list(roofline.CARDS)
    body = []
    for (op, dtype), group in groupby(rows, key=lambda row: (row["op"], row["dtype"])):
        bounds = {row["card"]: f"{row['bound_ms']:.3f} ({row['limit']})" for row in group}
        body.append([f"{op}, {dtype}", *(bounds[card] for card in cards)])
    return _table(["op", *(f"{card}, ms" for card in cards)], body)


SECTIONS: list[tuple[str, str, Callable[[Rows], Rows], Callable[[Rows], Figure]]] = [
    (
        "A training step, and drawing",
        "Medians of runs that took turns in one process, with the 20th and 80th percentiles; the ratio is to the "
        "authors' loop under the same allocator.",
        lambda rows: _of(rows, "step", "sampling", "start"),
        bars,
    ),
    ("Larger batches", "The same step at growing batches.", lambda rows: _of(rows, "throughput"), bars),
    (
        "Ops against rivals",
        "Forward + backward. Every result and gradient was compared with float64 before it was timed.",
        lambda rows: _of(rows, *OPS),
        speedups,
    ),
    (
        "Memory against time",
        "The most PyTorch had allocated above what was there before, and the time; lower left is better.",
        lambda rows: _of(rows, "step", "sampling"),
        memory_against_time,
    ),
    (
        "Scaling",
        "Forward + backward, the authors' form in gray, ours in blue. A red cross: out of memory.",
        lambda rows: [row for row in rows if "axis" in row],
        scaling,
    ),
    (
        "Roofline of this machine",
        "Peaks are measured; operations and bytes are those of PyTorch's cheapest exact form. A point below the line "
        "has other traffic or arithmetic to lose; one above it multiplies less than is counted, or the peaks were "
        "measured while the machine was busy.",
        lambda rows: rows if roofline.peaks_of(rows) else [],
        roof,
    ),
    (
        "Where a step's time goes",
        "One profiled step of each. The authors' backward over all losses is their phase “generator”; ours "
        "differentiates one discriminator at a time in “adversarial”.",
        lambda rows: _of(rows, "components"),
        components,
    ),
]


def render(rows: Rows) -> str:
    """The page.

    Raises:
        InputError: without rows.
    """
    if not rows:
        raise InputError("report: there are no results; run `python -m benchmarks.all` first")
    parts = []
    for title, text, choose, draw in SECTIONS:
        chosen = choose(rows)
        if chosen:
            parts.append(f"<h2>{title}</h2><p>{text}</p><figure>{_svg(draw(chosen))}</figure>")
    bounds = roofline.bounds_of_step(rows)
    if bounds:
        parts.append(
            f"<h2>What bounds a step</h2><p>{html.escape(bounds.note)}</p>"
            f'<div class="card">{_table(bounds.heads, bounds.body)}</div>'
        )
    parts.append(
        "<h2>What GPUs could do at best</h2><p>Computed, not measured: the least milliseconds of each op, forward + "
        f"backward, batch {roofline.PAPER_BATCH}, from its operations and bytes and the makers' peaks.</p>"
        f'<div class="card">{_cards()}</div>'
    )
    parts.append(f'<h2>Environment</h2><div class="card">{_environment(rows)}</div>')
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>dmgan_fast: benchmarks</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{EXTRA}</style><main>'
        f"<h1>dmgan_fast: benchmarks</h1><p>Against the authors' formulation, compiled or not, and other rivals.</p>"
        f"{''.join(parts)}</main></html>\n"
    )


def write(rows: Rows, file: Path) -> None:
    text = render(rows)
    with replace_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def picture(rows: Rows, file: Path) -> None:
    """The figure of the first section that has results alone, for README.

    Raises:
        InputError: if no section has.
    """
    found = next(((choose(rows), draw) for *_, choose, draw in SECTIONS if choose(rows)), None)
    if found is None:
        raise InputError("report: there are no results; run `python -m benchmarks.all` first")
    with replace_file(file) as temporary:
        temporary.write_text(_svg(found[1](found[0])), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the page to write")
    parser.add_argument(
        "--results",
        type=Path,
        default=results_of(),
        help="folder of results (default: the committed ones)",
    )
    parser.add_argument("--picture", type=Path, help="also the first figure, as SVG")
    arguments = parser.parse_args()
    rows = load_rows(arguments.results)
    write(rows, arguments.out)
    if arguments.picture:
        picture(rows, arguments.picture)


if __name__ == "__main__":
    main()
