"""Train the shipped weights on the embedded set and put them into the package.

    python tools/make_demo_weights.py [--runs runs/shipped] [--out dmgan_fast/weights/demo]

Hours on two cores; run again after a stop and it continues from the last checkpoint. The model card among
the weights states what the committed ones took.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmgan_fast.files import replace_file
from dmgan_fast.modules.pretrained import WEIGHTS_NAME
from dmgan_fast.runs.checkpoints import checkpoint_file, latest_checkpoint
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import train

PRETRAIN_STEPS = 1500
TRAIN_STEPS = 6200
SHIPPED_PARTS = ("generator", "text_encoder", "vocabulary.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/shipped"))
    parser.add_argument("--out", type=Path, default=Path("dmgan_fast/weights/demo"))
    arguments = parser.parse_args()
    encoders, gan = arguments.runs / "encoders", arguments.runs / "gan"

    overrides = [f"loop.steps={PRETRAIN_STEPS}", "loop.sample_every=500", "loop.checkpoint_every=500"]
    if not checkpoint_file(encoders / "checkpoints", PRETRAIN_STEPS).is_file():
        pretrain(build_config(PretrainConfig, preset="demo", overrides=overrides), encoders, resume=started(encoders))

    overrides = [
        f"encoders={encoders}",
        f"loop.steps={TRAIN_STEPS}",
        "loop.sample_every=200",
        "loop.checkpoint_every=200",
        "step.average_decay=0.995",  # a long run can average over more steps
    ]
    if not checkpoint_file(gan / "checkpoints", TRAIN_STEPS).is_file():
        train(build_config(TrainConfig, preset="demo", overrides=overrides), gan, resume=started(gan))

    for part in SHIPPED_PARTS:
        source, target = gan / "weights" / part, arguments.out / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
            pack(target / WEIGHTS_NAME)
        else:
            shutil.copyfile(source, target)


def pack(file: Path) -> None:
    """Round the weights to 15 bits of mantissa, by at most 2^-16 of each: a wheel packs the zeros behind them."""
    tensors = {name: rounded(tensor) for name, tensor in load_file(file).items()}
    with replace_file(file) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def rounded(x: Tensor) -> Tensor:
    """The nearest numbers whose last byte is zero; others than float32 as they are."""
    if x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x80) & ~0xFF).view(torch.float32)


def started(folder: Path) -> bool:
    return latest_checkpoint(folder / "checkpoints") is not None


if __name__ == "__main__":
    main()
