"""The main job on embedded data: train the encoders and a small GAN, generate, and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from dmgan_fast.data import make_loader, open_dataset
from dmgan_fast.modules import ImageEncoder
from dmgan_fast.progress import show_time
from dmgan_fast.report import Section, write_page
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.sampling.bundle import SHIPPED
from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.training.allocator import keep_freed_memory
from dmgan_fast.training.damsm import DAMSMTask, pretrain
from dmgan_fast.training.engine import finish, steps_left
from dmgan_fast.training.planning.measure import batch_of, models_of
from dmgan_fast.training.trainer import train

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


# Below so many steps, timing two of each would take as long as they do.
WORTH_TIMING = 20
BESIDE_STEPS = 1.1  # with start, generating, checkpoints and the page, as a part of the steps' time


def run_demo(out: Path, *, pretrain_steps: int, train_steps: int, seed: int = 0) -> Path:
    """Train on the embedded set for the given steps, generate ``CAPTIONS``, and write ``out/index.html``.

    Says first how long that will take. A run that was stopped continues where it was; a finished one is only reported
    again.

    Returns:
        the page.
    """
    console = Console(stderr=True)
    encoders, gan = out / f"encoders-{pretrain_steps}-seed{seed}", out / f"gan-{train_steps}-seed{seed}"
    pretraining = build_config(PretrainConfig, preset="demo", values=_loop(pretrain_steps, seed))
    values = _loop(train_steps, seed) | {"encoders": str(encoders)}
    training = build_config(TrainConfig, preset="demo", values=values)
    left = steps_left(pretraining, encoders), steps_left(training, gan)
    if sum(left) >= WORTH_TIMING:
        of_encoders = seconds_of_encoders(pretraining) if left[0] else 0.0
        of_gan = seconds_of_gan(training, pretraining) if left[1] else 0.0
        console.print(forecast(left, (of_encoders, of_gan)), soft_wrap=True)
    times = [time.monotonic()]
    finish(pretrain, pretraining, encoders, console)
    times.append(time.monotonic())
    finish(train, training, gan, console)
    times.append(time.monotonic())
    sections = [
        Section.generated("Shipped weights", SHIPPED, Sampler.from_pretrained(), CAPTIONS, seed),
        Section.generated("Just trained", gan / "weights", Sampler.from_pretrained(gan), CAPTIONS, seed),
    ]
    page = write_page(out / "index.html", sections, runs={"Encoders (DAMSM)": encoders, "GAN": gan})
    times.append(time.monotonic())
    parts = zip(("encoders", "GAN", "generating and page"), times, times[1:], strict=False)
    console.print(", ".join(f"{name} {show_time(end - start)}" for name, start, end in parts), soft_wrap=True)
    return page


def forecast(steps: tuple[int, int], seconds: tuple[float, float]) -> str:
    """How long ``steps`` of the encoders and of the GAN take at ``seconds`` each, in words."""
    parts = list(zip(("encoders", "GAN"), steps, seconds, strict=True))
    total = sum(n * each for _, n, each in parts) * BESIDE_STEPS
    shown = " and ".join(f"{n} steps of the {what} at {each:.2f} s" for what, n, each in parts if n)
    return f"this will take about {show_time(total)} here: {shown}, then generating"


def seconds_of_encoders(config: PretrainConfig) -> float:
    """A step of the encoders on this machine."""
    settings: dict[str, Any] = {"image_sizes": (config.image_size,), "max_words": config.data.max_words}
    dataset = open_dataset(config.data.source, "train", **settings)
    task, loader = DAMSMTask(config, dataset, dataset), make_loader(dataset, config.loop.batch_size)
    return _seconds(lambda: task.step(next(iter(loader)), 0))


def seconds_of_gan(config: TrainConfig, encoders: PretrainConfig) -> float:
    """A step of the GAN on this machine."""
    step = models_of(config, ImageEncoder(encoders.image_encoder))
    batch, noise = batch_of(config, config.loop.batch_size)
    for tensor in (*batch.images, batch.words, batch.sentence, *noise.values()):
        tensor.normal_()
    return _seconds(lambda: step(batch, **noise))


def _seconds(step: Callable[[], Any]) -> float:
    """Of the second one: the first allocates what later ones keep."""
    keep_freed_memory()
    step()
    started = time.monotonic()
    step()
    return time.monotonic() - started


def _loop(steps: int, seed: int) -> dict[str, Any]:
    return {"loop": {"steps": steps, "seed": seed, "log_every": max(1, min(10, steps // 10))}}
