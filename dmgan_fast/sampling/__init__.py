"""Captions in, images out: samplers, the folders of weights that they are made from, and their export."""

from dmgan_fast.sampling.bundle import Bundle, open_bundle, save_bundle
from dmgan_fast.sampling.sampler import Drawing, Sampler

__all__ = ["Bundle", "Drawing", "Sampler", "open_bundle", "save_bundle"]
