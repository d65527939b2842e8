"""The classifier of birds, converted from TensorFlow, against what TensorFlow computed with the authors' graph.

The golden logits are theirs: their `inception_model.py` under TensorFlow 2.21, with the weights that `variable` makes,
read back from a checkpoint as their script reads it. So names, layouts, pooling and preprocessing are all held.
"""

import math
import zlib

import numpy as np
import torch
from safetensors.torch import save_file

from dmgan_fast.evaluation.extractors import TF_POOLING, Classifier
from dmgan_fast.modules.image_encoder import InceptionTrunk
from tools.convert_birds_classifier import AVERAGE, convert, scopes


def variable(name, shape):
    """A variable of the checkpoint, generated from its name."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("weights"):
        return (random.standard_normal(shape) * math.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
    if name.endswith("moving_variance"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return (0.1 * random.standard_normal(shape)).astype(np.float32)


def checkpoint():
    """Shape of each variable, by name."""
    shapes = {"logits/logits/weights": (2048, 51), "logits/logits/biases": (51,)}
    modules = dict(InceptionTrunk().named_modules())
    for ours, scope in scopes().items():
        out, into, height, width = modules[f"{ours}.conv"].weight.shape
        shapes[f"{scope}/weights"] = (height, width, into, out)
        for part in ("beta", "moving_mean", "moving_variance"):
            shapes[f"{scope}/BatchNorm/{part}"] = (out,)
    return shapes


def converted():
    shapes = checkpoint()

    def read(name):
        assert name.endswith(AVERAGE)
        return variable(name.removesuffix(AVERAGE), shapes[name.removesuffix(AVERAGE)])

    return convert(read)


def test_the_converted_classifier_gives_tensorflows_logits(golden, tmp_path):
    truth = golden("birds_classifier")
    save_file(converted(), tmp_path / "birds.safetensors")
    extractor = Classifier(tmp_path / "birds.safetensors")
    pictures = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (2, 299, 299, 3)).astype(np.uint8))
    logits = extractor(pictures.permute(0, 3, 1, 2))["logits"]
    assert extractor.width == 50  # without the background
    assert (logits - truth["logits"][:, 1:]).abs().max() < 1e-5 * truth["logits"].abs().max()
    assert (logits.softmax(1) - truth["probabilities"]).abs().max() < 1e-5


def test_the_mark_of_tensorflows_pooling_makes_the_difference(golden, tmp_path):
    truth = golden("birds_classifier")["logits"][:, 1:]
    save_file({name: value for name, value in converted().items() if name != TF_POOLING}, tmp_path / "b.safetensors")
    pictures = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (2, 299, 299, 3)).astype(np.uint8))
    logits = Classifier(tmp_path / "b.safetensors")(pictures.permute(0, 3, 1, 2))["logits"]
    assert (logits - truth).abs().max() > 0.1


def test_scopes_cover_every_convolution_once():
    found = scopes()
    convolutions = [name for name, module in InceptionTrunk().named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert sorted(f"{name}.conv" for name in found) == sorted(convolutions)
    assert len(set(found.values())) == len(found) == 94
