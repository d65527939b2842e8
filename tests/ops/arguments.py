"""Small float64 arguments of every op."""

import torch

from dmgan_fast import functional

B, C, D, T, H, W = 3, 4, 5, 6, 3, 7
LENGTHS = (6, 4, 1)


def rand(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def padding():
    return torch.arange(T) >= torch.tensor(LENGTHS)[:, None]


def write_arguments(channels=C):
    C = channels
    return {
        "words": rand(B, D, T),
        "image_mean": rand(B, C),
        "gate_word": rand(D),
        "gate_image": rand(C),
        "word_weight": rand(2 * C, D),
        "word_bias": rand(2 * C),
        "image_weight": rand(2 * C, C),
        "image_bias": rand(2 * C),
        "key_weight": rand(C, 2 * C),
        "key_bias": rand(C),
        "value_weight": rand(C, 2 * C),
        "value_bias": rand(C),
    }


def read_arguments():
    return {
        "h": rand(B, C, H, W),
        "key": rand(B, C, T),
        "value": rand(B, C, T),
        "gate_weight": rand(2 * C),
        "gate_bias": rand(1),
        "padding_mask": padding(),
    }


def norm_arguments():
    return {
        "x": rand(B, 2 * C, H, W),
        "weight": rand(2 * C),
        "bias": rand(2 * C),
        "running_mean": torch.zeros(2 * C).double(),
        "running_var": torch.ones(2 * C).double(),
        "training": True,
    }


def similarity_arguments():
    words, lengths = rand(B, D, T), torch.tensor(LENGTHS)
    return {"regions": rand(2, D, H, W), "words": words, "lengths": lengths, "gamma1": 4.0, "gamma2": 5.0}


def call(op, arguments, **more):
    return getattr(functional, op)(**arguments, **more)
