"""Networks that turn images into features: 8-bit images in, float32 rows out.

Every number named after Inception depends on which Inception and on how images are resized to it, so both are part
of an extractor's name and key. Numbers of two extractors must not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dmgan_fast.data.captions import pad
from dmgan_fast.errors import CheckpointError
from dmgan_fast.evaluation.weights import TF_INCEPTION, TORCHVISION_INCEPTION, digest_of, read_tensors
from dmgan_fast.modules.image_encoder import CODE_CHANNELS, INCEPTION_SIZE, InceptionTrunk
from dmgan_fast.sampling.bundle import Bundle, open_bundle

# ImageNet's mean and deviation, with which torchvision's network was once trained on images scaled to [-1, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TF_POOLING = "average_pooling_without_padding"  # a tensor of this name marks a classifier from TensorFlow


class Extractor(Protocol):
    """``key``: network, its hash, and what is done to images; equal keys mean equal outputs. ``width``: features.

    Called with uint8 ``[B, 3, H, W]`` it returns float32 rows ``[B, D]`` by name: ``"features"``, and ``"logits"`` of
    a classifier.
    """

    key: str
    width: int

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


class TorchvisionInception:
    """Inception-v3 as torchvision publishes it: 2048 pooled features.

    ``resize="pil"`` is the authors' evaluation of files: Pillow's bilinear filter on 8-bit images.
    ``resize="align_corners"`` is the resizing inside their network wrapper, which acts on images not yet of 299².
    """

    def __init__(self, folder: Path, *, resize: str = "pil", device: torch.device | str = "cpu") -> None:
        tensors, digest = TORCHVISION_INCEPTION.read(folder)
        trunk = InceptionTrunk()
        trunk.load_imagenet(tensors, where=TORCHVISION_INCEPTION.names[0])
        self.trunk = trunk.eval().requires_grad_(False).to(device)
        self.resize, self.device, self.width = resize, device, CODE_CHANNELS
        self.key = f"torchvision-inception-v3 sha256={digest} resize={resize}"

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        if self.resize == "pil":
            scaled = resize_like_files(images, INCEPTION_SIZE).to(self.device).float() / 255
        else:
            scaled = images.to(self.device).float() / 255
            scaled = F.interpolate(scaled, size=(INCEPTION_SIZE, INCEPTION_SIZE), mode="bilinear", align_corners=True)
        # The authors apply this to images in [0, 1]; it is meant for normalised ones. Their figures rest on it.
        mean, deviation = (scaled.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        _, pooled = _exact(self.trunk, scaled * (deviation / 0.5) + (mean - 0.5) / 0.5)
        return {"features": pooled.cpu()}


class TFInception:
    """TensorFlow's Inception of 2015-12-05, as torch-fidelity ports it: 2048 pooled features, 1008 logits without bias.

    ``resize="tf"`` resizes as TensorFlow 1 does, the standard protocol; ``"pil"`` resizes as the authors' script for
    the Inception Score of COCO does.
    """

    def __init__(self, folder: Path, *, resize: str = "tf", device: torch.device | str = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        tensors, digest = TF_INCEPTION.read(folder)
        checked = BytesIO()  # it unpickles what it is given, so it gets tensors only
        torch.save(tensors, checked)
        checked.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], checked)
        except RuntimeError as error:  # of load_state_dict
            raise CheckpointError(f"{TF_INCEPTION.names[0]} does not fit the network: {error}") from None
        self.network = network.eval().to(device)
        self.resize, self.device, self.width = resize, device, CODE_CHANNELS
        self.key = f"tf-inception-2015-12-05 sha256={digest} resize={resize}"

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        if self.resize == "pil":
            images = resize_like_files(images, INCEPTION_SIZE)
        features, logits = _exact(self.network, images.to(self.device))
        return {"features": features.cpu(), "logits": logits.cpu()}


class Classifier:
    """An Inception-v3 classifier of any number of classes, in torchvision's names, from a file of the user's own.

    Images are resized by Pillow's bilinear filter and scaled to [-1, 1]. ``tools/convert_birds_classifier.py`` makes
    such a file from the authors' TensorFlow checkpoint; it is marked, because TensorFlow pools borders differently.
    """

    def __init__(self, file: Path, *, device: torch.device | str = "cpu") -> None:
        tensors, digest = read_tensors(file)
        weight, bias = tensors.get("fc.weight"), tensors.get("fc.bias")
        if weight is None or bias is None or weight.dim() != 2 or weight.shape[1] != CODE_CHANNELS:
            raise CheckpointError(
                f"{file}: not an Inception-v3 classifier in torchvision's names: fc.weight must be "
                f"[classes, {CODE_CHANNELS}], got {'nothing' if weight is None else list(weight.shape)}"
            )
        self.trunk = InceptionTrunk()
        if tensors.pop(TF_POOLING, None) is not None:
            leave_out_padding(self.trunk)
        self.trunk.load_imagenet(tensors, where=str(file))
        self.trunk.eval().requires_grad_(False).to(device)
        self.head = (weight.float().to(device), bias.float().to(device))
        self.device, self.width = device, len(weight)
        self.key = f"inception-v3-classifier sha256={digest} classes={len(weight)}"

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        scaled = resize_like_files(images, INCEPTION_SIZE).to(self.device).float() / 127.5 - 1
        _, pooled = _exact(self.trunk, scaled)
        return {"logits": F.linear(pooled, *self.head).cpu()}


class DAMSMFeatures:
    """The global code of a run's DAMSM image encoder ``[B, D]``, and what R-precision compares it with."""

    def __init__(self, bundle: Path | Bundle, *, device: torch.device | str = "cpu") -> None:
        bundle = open_bundle(bundle, "image_encoder", "text_encoder")
        self.image_encoder = bundle.image_encoder(str(device)).requires_grad_(False)
        self.text_encoder = bundle.text_encoder(str(device)).requires_grad_(False)
        self.vocabulary = bundle.vocabulary
        self.device, self.width = device, self.image_encoder.config.channels
        self.key = f"damsm sha256={digest_of(*bundle.files('image_encoder', 'text_encoder'))}"

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        _, code = _exact(self.image_encoder, images.to(self.device).float() / 127.5 - 1)
        return {"features": code.cpu()}

    @torch.inference_mode()
    def sentences(self, captions: Sequence[Sequence[int]]) -> Tensor:
        """``[B, D]`` of captions given as indices of ``vocabulary``, at least one each."""
        lengths = torch.tensor([len(words) for words in captions])
        texts = torch.stack([pad(words, int(lengths.max())) for words in captions]).to(self.device)
        sentences: Tensor = self.text_encoder(texts, lengths)[1]
        return sentences.cpu()


def resize_like_files(images: Tensor, size: int) -> Tensor:
    """uint8 ``[B, 3, H, W]`` → uint8 ``[B, 3, size, size]`` by Pillow's bilinear filter."""
    if tuple(images.shape[2:]) == (size, size):
        return images
    resized = [
        np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR))
        for image in images.cpu()
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def leave_out_padding(trunk: nn.Module) -> None:
    """Make the 3x3 average pools of Inception blocks count real pixels only, as TensorFlow does.

    torchvision divides by 9 at the border too. The 1x1 convolution behind each pool is linear in each pixel, so scaling
    what it gets by 9 / (pixels that count) is the same.
    """

    def scale(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        pooled = inputs[0]
        counted = F.avg_pool2d(torch.ones_like(pooled[:1, :1]), 3, stride=1, padding=1)
        return (pooled / counted,)

    for block in trunk.children():
        behind = getattr(block, "branch_pool", None)
        if isinstance(behind, nn.Module):
            behind.register_forward_pre_hook(scale)


@torch.inference_mode()
def _exact(network: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
    """Run in float32, without TF32: a feature must not depend on the GPU."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return network(inputs)  # type: ignore[no-any-return]
