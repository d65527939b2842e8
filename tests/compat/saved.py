"""State dicts of small models, and what may stand beside them in a file."""

import argparse
import pathlib
import string

import numpy as np
import torch
from hypothesis import strategies as st

from dmgan_fast import compat
from dmgan_fast.data import Vocabulary
from dmgan_fast.modules import Generator, GeneratorConfig

torch.manual_seed(0)
WIDTHS = {"word_channels": 8, "condition_channels": 4, "noise_channels": 4}
GENERATOR = compat.export_generator(Generator(GeneratorConfig(image_sizes=(64,), base_channels=2, **WIDTHS)))
WORDS = Vocabulary(["<end>", "a", "red", "box"])


class Settings:  # of a training script; ours to pickle, not to load
    def __init__(self):
        self.rate = 2e-4


class AttrDict(dict):
    pass


PAGE = "\n\n<HTML lang=en><head><title>Google Drive -\n Virus scan warning</title></head>"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123456789\n"

names = st.text(string.ascii_letters + "_0", min_size=1, max_size=8).filter(
    lambda name: name.lower() not in ("ema", "avg", "average", "averaged", "shadow") and "_" not in name
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from([np.float64(1.5), np.float32(2), np.int64(3), np.arange(4), np.bool_(True), np.zeros((2, 2))]),
    st.sampled_from([argparse.Namespace(a=1), Settings(), AttrDict(a=AttrDict()), pathlib.PurePosixPath("a/b")]),
    st.sampled_from([torch.ones(2), torch.zeros(2, 3, dtype=torch.int64), slice(1, 2), complex(1, 2)]),
)
junk = st.recursive(
    plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3))
)
