"""The two tables of README from the committed results: three numbers, and what each fused op replaces."""

from __future__ import annotations

import json

from benchmarks.common import Row, Table, mib, results_of
from benchmarks.report.results import Implementations, at_levels, authors, levels, measured_on, places, ratio
from dmgan_fast.info import LEVEL_NAMES

MEMORY_PATH = ("memory_path", "B4 C64 T18 128x128")
HEADLINES = (  # what it is, the part of the benchmarks, the op and case, whether its memory is the peak of a step
    ("training step (birds, batch 4)", "step", ("step", "birds B4"), "peak_bytes"),
    ("memory path, forward + backward (128², batch 4)", "ops", MEMORY_PATH, "saved_bytes"),
    ("sampling eight 256² images", "sampling", ("sampling", "birds B8 256x256"), "peak_bytes"),
)
REPLACED = (  # in the authors' code, here, the op and case that was measured
    ("memory writing, addressing, reading, response gate", "`memory_write`, `memory_read`", MEMORY_PATH),
    ("attention over words (AttnGAN)", "`memory_read` without a gate", ("attention_read", "B4 C64 T18 128x128")),
    ("batch norm → GLU", "`batch_norm_glu`", ("batch_norm_glu", "B4 128->64 256x256 NCHW")),
    ("3×3 convolution", "`conv3x3`", ("conv3x3", "B4 128->256 128x128 NCHW")),
    ("nearest ×2 → 3×3 convolution", "`upsample_conv3x3`", ("upsample_conv3x3", "B4 128->128 128->256 NCHW")),
    ("words loss, a loop over captions", "`words_similarity`", ("words_similarity", "B64 T18 D256 17x17")),
)
DIRECTIONS = {"step": "step", "ops": "forward+backward", "sampling": "forward"}
MEMORY = {"peak_bytes": "MiB peak", "saved_bytes": "MiB saved for backward"}


def headline() -> str:
    """A training step, the memory path and sampling: the authors' code against this library."""
    lines = []
    for title, part, case, memory in HEADLINES:
        of_level = at_levels(part, DIRECTIONS[part])[case]
        best, *others = of_level
        rows = of_level[best]
        cells = [_time_and_memory(rows[name], memory) for name in (authors(rows), "dmgan_fast")]
        also = "".join(f" ({LEVEL_NAMES[level]}: {_times(of_level[level])} ×)" for level in others)
        lines.append([title, *cells, f"**{_times(rows)} ×**{also}"])
    table = Table(["", "authors' code", "dmgan_fast", "times as fast"], lines)
    return f"{table.markdown()}\n\n{_measured()}\n"


def _measured() -> str:
    """Where and from which commits the three numbers are."""
    found = {title.split(" (")[0].split(",")[0]: places(part, case) for title, part, case, _ in HEADLINES}
    every = [place for of_levels in found.values() for place in of_levels]
    machines = dict.fromkeys(f"{p['threads']} threads of an {p['device']} with {p['compiler']}" for p in every)
    best, *others = dict.fromkeys(place["level"] for place in every)
    also = f", in brackets at {' and '.join(others)}" if others else ""
    made: dict[str, list[str]] = {}  # commits → what
    for title, of_levels in found.items():
        commits = [f"{p['commits'].partition(' ')[2]} at {p['level']}" for p in of_levels]
        same = len({p["commits"] for p in of_levels}) == 1
        made.setdefault(commits[0].split(" at ")[0] if same else " and ".join(commits), []).append(title)
    told = "; ".join(f"{' and '.join(titles)}: commit {commits}" for commits, titles in made.items())
    return f"Medians in float32 at {best}{also}, on {' and '.join(machines)}. {told[0].upper()}{told[1:]}."


def _time_and_memory(row: Row, memory: str) -> str:
    ms = row["median_ms"]
    return f"{f'{ms / 1e3:.2f} s' if ms >= 500 else f'{ms:.1f} ms'}, {mib(row[memory], 0)} {MEMORY[memory]}"


def _times(rows: Implementations) -> str:
    return ratio(rows, authors(rows))


def replaced() -> str:
    """What each op stands for in the authors' code, and the authors' own step under ``patch``."""
    found = at_levels("ops", "forward+backward")
    heads = ["in the authors' code", "here"]
    heads += [f"times as fast, {LEVEL_NAMES[level]}" for level in levels("ops")] + ["saved for backward, MiB"]
    lines = []
    for what, op, case in REPLACED:
        of_level = found[case]
        rows = next(iter(of_level.values()))
        ratios = [_times(of_level[level]) if level in of_level else "" for level in levels("ops")]
        saved = " → ".join(mib(rows[name]["saved_bytes"]) for name in (authors(rows), "dmgan_fast"))
        lines.append([what, op, *ratios, saved])
    return f"{Table(heads, lines).markdown()}\n\nForward + backward in float32, at {measured_on('ops')}.{_patched()}\n"


def _patched() -> str:
    """A sentence on the authors' own training step, patched."""
    level = next(level for level in levels() if (results_of(level) / "patched.json").exists())
    rows = json.loads((results_of(level) / "patched.json").read_text())
    steps = (row for row in rows if row["op"].startswith("step") and row["case"] == "DM-GAN birds B4")
    theirs, ours = steps
    times = f"{theirs['median_ms'] / ours['median_ms']:.2f} times as fast"
    peaks = f"{mib(ours['peak_bytes'])} MiB instead of {mib(theirs['peak_bytes'])}"
    where = f"{LEVEL_NAMES[level]}, {ours['compiler']}, commit {ours['commit']}"
    return f" With `patch` the authors' own training step is {times} and its peak is {peaks} ({where})."
