"""Decoded images in shared memory: the same pixels, no more than the budget, found by every process."""

from multiprocessing import get_context

import pytest
import torch

from dmgan_fast.data.cache import ImageCache, cache_budget
from dmgan_fast.errors import InputError


def image(number, height=4, width=5):
    return torch.full((3, height, width), number, dtype=torch.uint8)


def test_an_image_comes_back_as_it_was_put_whatever_its_shape():
    cache = ImageCache(4, 1 << 12)
    shapes = {0: (4, 5), 2: (1, 1), 3: (16, 3)}
    for index, shape in shapes.items():
        cache.put(index, image(index + 1, *shape))
    assert len(cache) == 3
    assert cache.taken == sum(3 * height * width for height, width in shapes.values())
    assert cache.get(1) is None
    for index, shape in shapes.items():
        assert torch.equal(cache.get(index), image(index + 1, *shape))
    strided = torch.arange(120, dtype=torch.uint8).view(3, 8, 5)[:, ::2]
    cache.put(1, strided)
    assert torch.equal(cache.get(1), strided)


def test_what_does_not_fit_the_budget_is_not_kept_and_harms_nothing():
    cache = ImageCache(3, 150)
    for index in range(3):
        cache.put(index, image(index))
    assert [cache.get(index) is not None for index in range(3)] == [True, True, False]
    cache.put(0, image(9))
    assert torch.equal(cache.get(0), image(0))
    assert cache.taken == 120
    empty = ImageCache(3, 0)
    empty.put(0, image(0))
    assert empty.get(0) is None


def fill(cache, first):
    for index in range(first, 40, 2):
        cache.put(index, image(index))


def test_what_any_process_adds_all_find():
    cache, fork = ImageCache(40, 1 << 16), get_context("fork")
    others = [fork.Process(target=fill, args=(cache, first)) for first in (0, 1)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert len(cache) == 40
    assert all(torch.equal(cache.get(index), image(index)) for index in range(40))


def test_a_budget_is_a_size_or_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr("dmgan_fast.out_of_memory.free_memory", lambda device: 800)
    assert cache_budget("auto") == 200
    assert cache_budget("auto", processes=2) == 100
    assert cache_budget("4GiB") == 4 << 30
    assert [cache_budget(value) for value in (0, "0", 4096)] == [0, 0, 4096]
    monkeypatch.setattr("dmgan_fast.out_of_memory.free_memory", lambda device: None)
    assert cache_budget("auto") == 0
    for wrong in ("-1", "much", "4Gb", ""):
        with pytest.raises(InputError, match=r"data\.cache must be auto, 0 or a size as 4GiB"):
            cache_budget(wrong)
