"""Captions in, images out: samplers, the folders of weights that they are made from, and their export."""

from dmgan_fast.old_names import old_names
from dmgan_fast.sampling.bundle import Bundle, open_bundle, save_bundle
from dmgan_fast.sampling.sampler import Sample, Sampler

__all__ = ["Bundle", "Sample", "Sampler", "open_bundle", "save_bundle"]

__getattr__ = old_names(__name__, {"Drawing": "Sample"})
