"""Turn the TensorFlow classifier behind the paper's Inception Score of birds into a file `evaluate` can read.

    python tools/convert_birds_classifier.py birds_valid299/model.ckpt --out birds_inception.safetensors
    dmgan-fast evaluate ... --classifier birds_inception.safetensors

The checkpoint is the one StackGAN's and the authors' README point to. Reading it needs TensorFlow, here and only here.
The averages of the weights are taken, as the authors' script does, and class 0, an unused background, is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from dmgan_fast.evaluation.extractors import TF_POOLING
from dmgan_fast.files import replace_file
from dmgan_fast.modules.image_encoder import InceptionTrunk

AVERAGE = "/ExponentialMovingAverage"
# torchvision's blocks and their scopes in TF-slim; inside a block, convolutions of a branch are numbered in order.
STEM = {"Conv2d_1a_3x3": "conv0", "Conv2d_2a_3x3": "conv1", "Conv2d_2b_3x3": "conv2"}
STEM |= {"Conv2d_3b_1x1": "conv3", "Conv2d_4a_3x3": "conv4"}
BLOCKS = {
    "Mixed_5b": "mixed_35x35x256a",
    "Mixed_5c": "mixed_35x35x288a",
    "Mixed_5d": "mixed_35x35x288b",
    "Mixed_6a": "mixed_17x17x768a",
    "Mixed_6b": "mixed_17x17x768b",
    "Mixed_6c": "mixed_17x17x768c",
    "Mixed_6d": "mixed_17x17x768d",
    "Mixed_6e": "mixed_17x17x768e",
    "Mixed_7a": "mixed_17x17x1280a",
    "Mixed_7b": "mixed_8x8x2048a",
    "Mixed_7c": "mixed_8x8x2048b",
}


def scopes() -> dict[str, str]:
    """torchvision's name of each convolution → its scope in TF-slim."""
    trunk = InceptionTrunk()
    result = dict(STEM)
    for block, scope in BLOCKS.items():
        names = [name for name, _ in getattr(trunk, block).named_children()]
        branches = groupby(names, key=lambda name: name if name == "branch_pool" else name.split("_")[0])
        for branch, members in branches:
            for k, name in enumerate(members):
                result[f"{block}.{name}"] = f"{scope}/{branch}/Conv{f'_{k}' if k else ''}"
    return result


def convert(read: Callable[[str], np.ndarray]) -> dict[str, Tensor]:
    """Tensors in torchvision's names.

    Args:
        read: gives a TensorFlow variable by name.
    """

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(read(name + AVERAGE), np.float32))

    tensors = {}
    for ours, scope in scopes().items():
        tensors[f"{ours}.conv.weight"] = tensor(f"{scope}/weights").permute(3, 2, 0, 1).contiguous()
        shift = tensor(f"{scope}/BatchNorm/beta")
        tensors[f"{ours}.bn.weight"] = torch.ones_like(shift)  # slim's batch norm has no scale
        tensors[f"{ours}.bn.bias"] = shift
        tensors[f"{ours}.bn.running_mean"] = tensor(f"{scope}/BatchNorm/moving_mean")
        tensors[f"{ours}.bn.running_var"] = tensor(f"{scope}/BatchNorm/moving_variance")
    tensors["fc.weight"] = tensor("logits/logits/weights")[:, 1:].t().contiguous()
    tensors["fc.bias"] = tensor("logits/logits/biases")[1:].contiguous()
    tensors[TF_POOLING] = torch.ones(1)
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="path of the checkpoint, as TensorFlow names it")
    parser.add_argument("--out", type=Path, default=Path("birds_inception.safetensors"))
    arguments = parser.parse_args()
    try:
        import tensorflow  # type: ignore[import-not-found]
    except ImportError:
        raise SystemExit("reading the checkpoint needs TensorFlow: pip install tensorflow-cpu") from None
    reader = tensorflow.train.load_checkpoint(arguments.checkpoint)
    with replace_file(arguments.out) as temporary:
        save_file(convert(reader.get_tensor), temporary)
    print(arguments.out)


if __name__ == "__main__":
    main()
