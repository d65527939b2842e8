"""The main job on embedded data: train the encoders and a small GAN, draw, and report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from dmgan_fast.report import Section, write_page
from dmgan_fast.training.config import PretrainConfig, TrainConfig, build_config
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.engine import finish
from dmgan_fast.training.sampling import Sampler
from dmgan_fast.training.trainer import train
from dmgan_fast.training.weights import SHIPPED

CAPTIONS = (
    "a red apple with green",
    "a yellow smiling face",
    "a blue car",
    "a green leaf, plant",
    "a red heart",
    "an orange cat face",
    "a purple circle",
    "a brown bear, animal",
)


def run_demo(out: Path, *, pretrain_steps: int, train_steps: int, seed: int = 0) -> Path:
    """Train on the embedded set for the given steps, draw ``CAPTIONS``, and write ``out/index.html``.

    A run that was stopped goes on where it was; a finished one is only reported again.

    Returns:
        the page.
    """
    console = Console(stderr=True)
    started = time.monotonic()
    encoders, gan = out / f"encoders-{pretrain_steps}-seed{seed}", out / f"gan-{train_steps}-seed{seed}"
    finish(pretrain, build_config(PretrainConfig, preset="demo", values=_loop(pretrain_steps, seed)), encoders, console)
    values = _loop(train_steps, seed) | {"encoders": str(encoders)}
    finish(train, build_config(TrainConfig, preset="demo", values=values), gan, console)
    console.print(f"trained in {time.monotonic() - started:.0f} s")
    sections = [
        Section.drawn("Shipped weights", SHIPPED, Sampler.from_pretrained(), CAPTIONS, seed),
        Section.drawn("Just trained", gan / "weights", Sampler.from_pretrained(gan), CAPTIONS, seed),
    ]
    return write_page(out / "index.html", sections, runs={"Encoders (DAMSM)": encoders, "GAN": gan})


def _loop(steps: int, seed: int) -> dict[str, Any]:
    return {"loop": {"steps": steps, "seed": seed, "log_every": max(1, min(10, steps // 10))}}
