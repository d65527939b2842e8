"""Models to patch, what they are called with, and how their results and what was replaced compare."""

import torch
from torch import nn

from tests.compat.standins import DFGAN, DMGAN, NOISE, SENTENCE, WORDS, AttnGAN, StackGAN

STRUCTURES = {"DM-GAN": DMGAN, "AttnGAN": AttnGAN, "StackGAN-v2": StackGAN, "DF-GAN": DFGAN}
EXACT = 1e-9
RESULTS, GRADIENTS = 2, 3  # times eager's error in float32


def shaken(model):
    """Norms away from 1 and 0."""
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model


def built(make, dtype=torch.float64):
    torch.manual_seed(0)
    return shaken(make()).to(dtype)


def inputs(dtype=torch.float64, batch=3, words=5, seed=1):
    draw = torch.Generator().manual_seed(seed)
    noise, sentence, text = (torch.randn(batch, *s, generator=draw) for s in ((NOISE,), (SENTENCE,), (WORDS, words)))
    mask = torch.arange(words) >= torch.tensor([5, 2, 3])[:batch, None]
    return noise.to(dtype), sentence.to(dtype), text.to(dtype), mask


def weighted(results):
    """A scalar that every number of every result counts in differently."""
    draw = torch.Generator().manual_seed(3)
    return sum((x * torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype)).mean() for x in results)


def flat(results):
    images, maps = results
    return [*images, *maps]


def close(one, other, tolerance=EXACT):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= tolerance * max(other.abs().max().item(), 1e-30)


def whats(handle):
    """What was replaced, with numbers."""
    counts = {}
    for entry in handle.report().replaced:
        counts[entry.what] = counts.get(entry.what, 0) + 1
    return counts


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def snapshot(model):
    """Classes; and identities of modules, tensors, hooks and attributes."""
    modules = list(model.modules())
    tensors = [
        (name, id(t), id(t.untyped_storage()) and t.data_ptr()) for name, t in model.state_dict(keep_vars=True).items()
    ]
    attributes = [{name: id(value) for name, value in vars(m).items()} for m in modules]
    return [type(m) for m in modules], [id(m) for m in modules], tensors, attributes
