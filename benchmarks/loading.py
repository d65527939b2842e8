"""Whether batches come faster than steps take them: the loader alone, against a training step.

Photographs of the size of CUB's are made, JPEG files of 500 × 375 pixels, and read in batches for 256² and the smaller
resolutions: each item finished on its own, as it was once; by the loader, decoding every time; with decoded images in
memory; and by workers. Batches are compared first. ``steps`` is how many batches come in one training step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import Row, Rows, Table, Target, environment, finish, parser_of, spread_of
from benchmarks.harness import spread
from benchmarks.models import Models, batch_of, ours, preset, tiny
from dmgan_fast.data import CaptionedImages, Record, Vocabulary, make_loader
from dmgan_fast.data.loader import batch_bytes, collate
from dmgan_fast.data.order import Batches
from dmgan_fast.data.workers import helpful_workers

SIZES, WORDS, BATCH = (64, 128, 256), 18, 10
CAPTION = "this bird has a red crown and a short beak with long grey wings that are striped black"
BEFORE = "item by item"
GOAL = 4  # batches in a step, at least


def photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> list[Record]:
    """Smooth shapes with some noise, so that files are as large as a camera's."""
    draw = np.random.default_rng(0)
    records = []
    for number in range(count):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        pixels = np.asarray(coarse, np.int16) + draw.normal(0, 12, (size[1], size[0], 3)).astype(np.int16)
        file = folder / f"{number}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        records.append(Record(file.stem, file, (CAPTION,), number))
    return records


def item_by_item(dataset: CaptionedImages, batch_size: int) -> Iterator[Any]:
    """Every image decoded, scaled to every resolution and brought to its range on its own."""
    for epoch in range(1 << 30):
        dataset.set_epoch(epoch)
        for visits in Batches(len(dataset), batch_size, seed=0, epoch=epoch):
            yield collate([dataset[visit.image] for visit in visits])


def ways(
    records: list[Record], batch_size: int, sizes: tuple[int, ...], device: torch.device, workers: int
) -> dict[str, Iterator[Any]]:
    """Name → batches without end."""
    words = Vocabulary.from_captions([CAPTION])

    def loader(workers: int = 0, cache_bytes: int = 0) -> Iterator[Any]:
        dataset = CaptionedImages(records, words, sizes, WORDS, cache_bytes=cache_bytes)
        return iter(make_loader(dataset, batch_size, endless=True, workers=workers, device=device))

    cache = len(records) * 3 * 500 * 500
    found: dict[str, Iterator[Any]] = {
        BEFORE: item_by_item(CaptionedImages(records, words, sizes, WORDS), batch_size),
        "loader": loader(),
        "loader, decoded images in memory": loader(cache_bytes=cache),
    }
    if workers:
        found[f"loader, {workers} workers"] = loader(workers)
        found[f"loader, {workers} workers, decoded images in memory"] = loader(workers, cache)
    return found


def are_alike(batches: list[Any]) -> bool:
    """Whether all ways give the same first batch."""
    first = batches[0]
    return all(
        torch.equal(one.cpu(), other)
        for batch in batches
        for one, other in zip([*batch.images[-1:], batch.captions], [*first.images[-1:], first.captions], strict=True)
    )


def rows_of(
    folder: Path,
    repeats: int,
    *,
    step: Callable[[], Any],
    count: int = 200,
    batch_size: int = BATCH,
    sizes: tuple[int, ...] = SIZES,
    device: torch.device | None = None,
    workers: int | None = None,
) -> Rows:
    """A row for each way of reading.

    Args:
        folder: for the photographs.
        repeats: batches of each that are timed, in turn with those of the others.
        step: takes one training step and waits for it.
        count: photographs; each is read once before anything is timed.
        workers: None: as many as training would take, at least one.
    """
    device = device or torch.device("cpu")
    records = photographs(folder, count)
    if workers is None:
        probe = CaptionedImages(records, Vocabulary.from_captions([CAPTION]), sizes, WORDS)
        workers = max(1, helpful_workers(device, batch_bytes(probe, batch_size)))
    readers = ways(records, batch_size, sizes, device, workers)
    correct = are_alike([next(reader) for reader in readers.values()])
    for _ in range(count // batch_size):
        for reader in readers.values():
            next(reader)
    step()
    times: dict[str, list[float]] = {name: [] for name in ("step", *readers)}
    for number in range(repeats):
        calls: dict[str, Callable[[], Any]] = {name: reader.__next__ for name, reader in readers.items()}
        for name, call in ({"step": step} | calls if number < 3 else calls).items():
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - began))
    step_ms = spread(times.pop("step"))["median_ms"]
    machine, rows = environment(Target(device.type)), []
    for name, runs in times.items():
        mean = sum(runs) / len(runs)  # workers hand over several at once: the mean counts
        row: Row = {
            "op": "loading",
            "case": f"B{batch_size} {sizes[-1]}²",
            "implementation": name,
            "direction": "batch",
        }
        row |= spread(runs) | {"mean_ms": mean, "step_ms": step_ms, "steps": step_ms / mean, "correct": correct}
        rows.append(row | machine)
    return rows


def table(rows: Rows) -> Table:
    """For people."""
    heads = ["batches", "ms (p20–p80)", "mean ms", "× before", "in a step", f"≥ {GOAL}"]
    before = next(row["mean_ms"] for row in rows if row["implementation"] == BEFORE)
    lines = [
        [
            f"{row['case']}, {row['implementation']}",
            spread_of(row),
            f"{row['mean_ms']:.2f}",
            f"{before / row['mean_ms']:.2f}",
            f"{row['steps']:.1f}",
            "yes" if row["steps"] >= GOAL else "no",
        ]
        for row in rows
    ]
    return Table(heads, lines)


def training_step(device: torch.device, small: bool = False) -> Callable[[], Any]:
    """One of the paper's for birds at a batch of 10."""
    setting = tiny() if small else preset("birds", BATCH)
    step = ours(Models.build(setting).to(device), setting.config)
    inputs = batch_of(setting, device=str(device))
    return lambda: float(next(iter(step(**inputs).values())))


def main() -> None:
    parser = parser_of(__doc__, repeats=40)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="that trains (default: cpu)")
    parser.add_argument("--workers", type=int, help="default: as many as training would take, at least one")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    with TemporaryDirectory() as folder:
        step = training_step(device)
        rows = rows_of(Path(folder), arguments.repeats, step=step, device=device, workers=arguments.workers)
    table(rows).print("loading")
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
