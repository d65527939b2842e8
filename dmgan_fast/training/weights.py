"""The path under which the documentation used to name ``dmgan_fast.sampling.save_bundle``."""

from dmgan_fast.sampling.bundle import save_bundle as save_bundle
