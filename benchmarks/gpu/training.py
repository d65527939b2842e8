"""Trains on the embedded set in bfloat16 for the time there is: encoders first, then the GAN, then generates."""

from __future__ import annotations

import csv
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.stages import Options, Row
from dmgan_fast.demo import CAPTIONS
from dmgan_fast.errors import Interrupted
from dmgan_fast.images import contact_sheet, save_image
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.sampling import Sampler
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import train

ENCODERS, GAN = 0.25, 0.6  # of the time; the rest is for starting, stopping and generating
ENDLESS = 1_000_000
NARROW = {"image_sizes": [64], "base_channels": 4, "condition_channels": 8, "noise_channels": 8}


def training(options: Options) -> Iterator[Row]:
    """A row for each part with its steps and last losses; ``images.png`` shows what the generator makes then."""
    torch.manual_seed(0)
    runs = (options.scratch or options.out) / "runs"
    loop: dict[str, Any] = {"steps": ENDLESS, "device": options.device, "log_every": 1 if options.tiny else 10}
    loop |= {"sample_every": ENDLESS, "checkpoint_every": ENDLESS, "measure_every": 0, "keep_checkpoints": 1}
    loop |= {"batch_size": 4} if options.tiny else {}
    data = {"workers": 0 if options.tiny else options.workers}
    encoders = build_config(PretrainConfig, preset="demo", values={"loop": loop, "data": data})
    yield _part("encoders", lambda: pretrain(encoders, runs / "encoders"), runs, ENCODERS * options.seconds, options)
    values: dict[str, Any] = {"loop": loop, "data": data, "encoders": str(runs / "encoders")}
    values |= {"step": {"precision": "bf16"}}
    values |= {"generator": NARROW, "discriminator_channels": 4} if options.tiny else {}
    gan = build_config(TrainConfig, preset="demo", values=values)
    yield _part("gan", lambda: train(gan, runs / "gan"), runs, GAN * options.seconds, options)
    drawings = Sampler.from_pretrained(runs / "gan", device=options.device).sample(CAPTIONS, seed=0)
    images = [(drawing.caption, drawing.images[-1].float().cpu()) for drawing in drawings]
    save_image(contact_sheet(images), options.out / "images.png")
    yield {"case": "images", "count": len(images), "finite": all(bool(x.isfinite().all()) for _, x in images)}


def _part(name: str, work: Callable[[], None], runs: Path, seconds: float, options: Options) -> Row:
    begin = time.monotonic()
    with _stopped_after(1.0 if options.tiny else seconds), suppress(Interrupted):
        work()
    with (runs / name / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    last = {key: float(value) for key, value in rows[-1].items() if key not in ("step", "seconds")}
    row = {"case": name, "precision": "bf16" if name == "gan" else "fp32", "steps": int(rows[-1]["step"])}
    row |= {"seconds_trained": float(rows[-1]["seconds"]), "seconds_in_all": round(time.monotonic() - begin, 1)}
    return row | {"losses": last, "correct": all(map(math.isfinite, last.values()))}


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Presses Ctrl-C then, once training waits for it: it ends the step, saves, and raises ``Interrupted``."""
    over = threading.Event()

    def press() -> None:
        over.wait(seconds)
        while not over.is_set():
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                os.kill(os.getpid(), signal.SIGINT)
                return
            over.wait(0.05)

    waiting = threading.Thread(target=press, daemon=True)
    waiting.start()
    try:
        yield
    finally:
        over.set()
        waiting.join()
