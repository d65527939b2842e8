"""Generating that runs out of memory is told of what would fit."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from dmgan_fast import out_of_memory
from dmgan_fast.errors import OutOfMemory
from dmgan_fast.modules import Generator
from dmgan_fast.sampling import advice


def fail_to_draw(monkeypatch, error):
    """Real images do not fit; the forecast, on tensors without data, does."""
    forward = Generator.forward

    def fail(self, noise, *inputs, **options):
        if not isinstance(noise, FakeTensor):
            raise error
        return forward(self, noise, *inputs, **options)

    monkeypatch.setattr(Generator, "forward", fail)


def test_one_image_that_does_not_fit_is_told_of_tiles_and_tiles_of_smaller_ones(sampler, monkeypatch):
    fail_to_draw(monkeypatch, MemoryError())
    with pytest.raises(OutOfMemory, match=r"generating one image .* 128 .*; generate in windows \(--tile 64"):
        sampler.sample(["a"])
    monkeypatch.setattr("dmgan_fast.sampling.sampler.generate_in_tiles", sampler.generator.forward)
    with pytest.raises(OutOfMemory, match=r"in windows of 128.*smaller windows \(--tile 64\)"):
        sampler.sample(["a"], tile=128)


def test_the_batch_that_is_named_fits_what_is_free(sampler, monkeypatch):
    base, each = advice._sampling_bytes(sampler.generator, torch.device("cpu"))
    for free in (10 * each, 50 * each):
        monkeypatch.setattr(out_of_memory, "free_memory", lambda device, free=free: free)
        said = advice.sampling_advice(sampler.generator, 400, None, None)
        batch = int(re.search(r"--batch (\d+)", said)[1])
        assert batch > 0
        assert base + each * batch <= free
        assert base + each * (2 * batch) > out_of_memory.ROOM * free
