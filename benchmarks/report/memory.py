"""Writes the tables and figures of docs/memory.md from committed results: ``python -m benchmarks.report.memory``."""

from __future__ import annotations

import json
from typing import Any

from matplotlib.figure import Figure

from benchmarks.common import RESULTS, Row, Table, mib, spread_of
from benchmarks.memory import AUTHORS, CARDS, COMPILED, POLICIES
from benchmarks.report import DOCS, replace_after, save
from dmgan_fast.info import LEVEL_NAMES

MARKER = "<!-- results: written by `python -m benchmarks.report.memory` -->\n"
MIB = 1 << 20
COLOURS = {
    AUTHORS: "#666666",
    COMPILED: "#999999",
    "none": "#1f6fb4",
    "op": "#d08a00",
    "block": "#2e8b57",
    "tile": "#b03a75",
}


def where(part: dict[str, Any]) -> str:
    found = part["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    made = (
        f"{LEVEL_NAMES[found['level']]}, {found['compiler']}, commit {found['commit']}; " if "commit" in found else ""
    )
    return f"{found['threads']} threads of an {found['device']}; {made}{versions}."


# -------------------------------------------------------------------------------------------------------------- tables


def per_image(rows: list[Row]) -> str:
    """MiB of one more image, by resolution."""
    sides = sorted({row["side"] for row in rows})
    found = {(r["policy"], r["precision"], r["side"]): r["bytes_per_picture"] for r in rows}
    kinds = [(AUTHORS, "fp32"), *((name, precision) for precision in ("fp32", "bf16") for name in POLICIES)]
    body = [[name, precision, *(mib(found[name, precision, side], 0) for side in sides)] for name, precision in kinds]
    return Table(["policy", "dtype", *(f"{side}²" for side in sides)], body).markdown()


def forecasts(rows: list[Row]) -> str:
    body = []
    for r in rows:
        size, forecast = r["measured_bytes"], r["predicted_bytes"]
        error = f"{100 * (forecast / size - 1):+.2f} %" if size and forecast else ""
        measured = mib(size, 0) or "out of memory"
        body.append([r["policy"], r["precision"], f"{r['side']}²", r["batch_size"], measured, mib(forecast, 0), error])
    return Table(["policy", "dtype", "resolution", "batch", "measured MiB", "forecast MiB", "error"], body).markdown()


def fitting(rows: list[Row]) -> str:
    """Largest batches by GPU memory."""
    chosen = [(AUTHORS, "fp32"), ("none", "fp32"), ("block", "fp32"), ("block", "bf16"), ("tile", "bf16")]
    body = []
    for side in sorted({row["side"] for row in rows}):
        for name, precision in chosen:
            row = next(r for r in rows if (r["side"], r["policy"], r["precision"]) == (side, name, precision))
            sizes = [row["largest_batch"][str(card)] or "–" for card in CARDS]
            body.append([f"{side}²", name, precision, *sizes])
    return Table(["resolution", "policy", "dtype", *(f"{card} GiB" for card in CARDS)], body).markdown()


SHOWN = {  # names in the results → in the tables
    "block, last side only": "block at the highest resolution only",
    "none, weights a last bit off": "none, initial weights differ by one ulp",
    "judged 1 at a time": "micro-batches of 1",
}


def times(rows: list[Row]) -> str:
    by = {row["policy"]: row for row in rows}
    body = [
        [
            SHOWN.get(name, name),
            spread_of(row, 1e3),
            f"{row['ratio_to_none']:.2f}",
            f"{by[AUTHORS]['median_ms'] / row['median_ms']:.2f}",
        ]
        for name, row in by.items()
    ]
    return Table(["policy", "seconds per step (p20–p80)", "× step without a policy", "authors / this"], body).markdown()


def training(rows: list[Row]) -> str:
    steps = rows[0]["steps"]
    body = []
    for row in rows:
        apart = [f"{row[f'apart_after_{n}']:.0e}" for n in (1, 10, steps)]
        body.append(
            [
                row["dtype"],
                SHOWN.get(row["policy"], row["policy"]),
                *(["bit for bit"] * 3 if row["identical"] else apart),
            ]
        )
    return Table(["dtype", "policy", "step 1", "steps 1–10", f"steps 1–{steps}"], body).markdown()


def drawing(rows: list[Row]) -> str:
    body = [[f"{r['side']}²", r["tile"] or "whole", mib(r["measured_bytes"], 0) or "out of memory"] for r in rows]
    return Table(["resolution", "tile", "peak MiB"], body).markdown()


# ------------------------------------------------------------------------------------------------------------- figures


def axes(width: float, height: float, **labels: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height))
    ax = figure.subplots()
    ax.set(**labels)
    ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
    return figure, ax


def figure_by_side(computed: list[Row], measured: list[Row]) -> None:
    figure, ax = axes(7.2, 4.4, xlabel="highest resolution", ylabel="MiB of one more image in a batch")
    for name in (AUTHORS, *POLICIES):
        for precision, style in (("fp32", "-"), ("bf16", "--")):
            rows = [r for r in computed if r["policy"] == name and r["precision"] == precision]
            if rows:
                label = name if name == AUTHORS else f"{name}, {precision}"
                sizes = [r["bytes_per_picture"] / MIB for r in rows]
                ax.plot([r["side"] for r in rows], sizes, style, color=COLOURS[name], marker="o", ms=3, label=label)
    compiled: dict[int, dict[int, int]] = {}  # resolution → batch size → bytes
    for row in measured:
        if row["policy"] == COMPILED and row["measured_bytes"]:
            compiled.setdefault(row["side"], {})[row["batch_size"]] = row["measured_bytes"]
    slopes = {
        side: (of[max(of)] - of[min(of)]) / (max(of) - min(of)) / MIB for side, of in compiled.items() if len(of) > 1
    }
    if slopes:
        label = "authors, torch.compile (measured)"
        ax.plot(list(slopes), list(slopes.values()), ":", color="black", marker="x", label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    sides = sorted({r["side"] for r in computed})
    ax.set_xticks(sides, [f"{side}²" for side in sides])
    three = next(r["bytes_per_picture"] for r in computed if r["policy"] == AUTHORS and r["side"] == 256) / MIB
    ax.axhline(three, color="#aaaaaa", linewidth=0.8, linestyle=":")
    ax.text(sides[0], three * 1.06, "the authors' three stages", fontsize=8, color="#666666")
    ax.legend(fontsize=7.5, frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    save(figure, "memory_by_resolution.svg")


def figure_against_time(timed: list[Row], measured: list[Row]) -> None:
    label = {"xlabel": "seconds of a step", "ylabel": "MiB of a step, above weights, optimiser and batch"}
    figure, ax = axes(6, 4, **label)
    sizes = {
        r["policy"]: r["measured_bytes"]
        for r in measured
        if (r["side"], r["batch_size"]) == (256, 4) and r["precision"] == "fp32"
    }
    for row in timed:
        size = sizes.get(row["policy"])
        if size is None:
            continue
        low, high = row["median_ms"] - row["p20_ms"], row["p80_ms"] - row["median_ms"]
        x, y = row["median_ms"] / 1e3, size / MIB
        ax.errorbar(x, y, xerr=[[low / 1e3], [high / 1e3]], fmt="o", color=COLOURS[row["policy"]], capsize=2)
        ax.annotate(row["policy"], (x, y), textcoords="offset points", xytext=(6, 6), fontsize=9)
    ax.set_ylim(0)
    ax.set_xlim(0)
    save(figure, "memory_against_time.svg")


def figure_fitting(computed: list[Row]) -> None:
    kinds = [(AUTHORS, "fp32"), ("block", "fp32"), ("block", "bf16"), ("tile", "bf16")]
    sides = sorted({r["side"] for r in computed})
    figure = Figure(figsize=(9, 3.2))
    panels = figure.subplots(1, len(CARDS), sharey=True)
    for ax, card in zip(panels, CARDS, strict=True):
        for k, (name, precision) in enumerate(kinds):
            rows = [
                next(r for r in computed if (r["side"], r["policy"], r["precision"]) == (s, name, precision))
                for s in sides
            ]
            heights = [r["largest_batch"][str(card)] for r in rows]
            places = [i + 0.2 * (k - 1.5) for i in range(len(sides))]
            label = name if name == AUTHORS else f"{name}, {precision}"
            ax.bar(places, heights, 0.18, color=COLOURS[name], alpha=0.55 if precision == "bf16" else 1, label=label)
        ax.set_yscale("log")
        ax.set_title(f"{card} GiB", fontsize=10)
        ax.set_xticks(range(len(sides)), [f"{side}²" for side in sides], fontsize=7, rotation=45)
        ax.grid(True, axis="y", color="#dddddd", linewidth=0.6)
    panels[0].set_ylabel("largest batch that fits")
    panels[0].set_ylim(1, 2 * max(size for r in computed for size in r["largest_batch"].values()))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.12))
    save(figure, "memory_fitting.svg")


def main() -> None:
    results = json.loads((RESULTS / "memory.json").read_text())
    rows = {name: part["rows"] for name, part in results.items()}
    text = [
        "### One more image in a batch, MiB",
        "Computed for a GPU: the slope of the peak between batches of 32 and 64. By " + where(results["computed"]),
        per_image(rows["computed"]),
        "![MiB of one more image by resolution](figures/memory_by_resolution.svg)",
        "### Measured and forecast peaks",
        "Above weights, optimiser states and the batch. " + where(results["measured"]),
        forecasts(rows["measured"]),
        "### Largest batch by GPU memory",
        "Computed; 1 GiB of each GPU is set aside for the CUDA context, workspaces and fragmentation. "
        "**Unverified on GPU.** By " + where(results["computed"]),
        fitting(rows["computed"]),
        "![largest batches](figures/memory_fitting.svg)",
    ]
    figure_by_side(rows["computed"], rows["measured"])
    figure_fitting(rows["computed"])
    if "time" in rows:
        figure_against_time(rows["time"], rows["measured"])
        text += ["### Memory against time", "Steps at 256² in fp32, batch 4, interleaved. " + where(results["time"])]
        text += [times(rows["time"]), "![memory against time](figures/memory_against_time.svg)"]
    if "training" in rows:
        text += ["### Four stages trained under every policy"]
        text += [
            "The largest relative difference of any loss from those without a policy, 64² to 512², a narrow model. "
            "Policies that sum in another order are shown in float64. Training amplifies rounding: they diverge no "
            "faster than two runs without a policy whose initial weights differ by one ulp."
        ]
        text += [training(rows["training"])]
    if "sampling" in rows:
        text += ["### Sampling one image"]
        text += ["Peak above the weights, the image included. " + where(results["sampling"]), drawing(rows["sampling"])]
    replace_after(DOCS / "memory.md", MARKER, "\n" + "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
