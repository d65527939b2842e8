"""Random numbers that depend on their keys only."""

import torch

from dmgan_fast.data.randomness import generator


def numbers(*keys):
    return tuple(torch.rand(3, generator=generator(*keys)).tolist())


def test_the_same_keys_give_the_same_numbers_whatever_was_asked_for_before():
    before = numbers(1, 2, "x")
    torch.manual_seed(5)
    numbers(9)
    assert numbers(1, 2, "x") == before


def test_other_keys_give_other_numbers():
    """Neither sums nor what is written alike are mixed up."""
    keys = [(1, 2), (2, 1), (3,), (12,), ("12",), (1, 2, 0), (-1, 2), ("1, 2",), ()]
    assert len({numbers(*each) for each in keys}) == len(keys)
