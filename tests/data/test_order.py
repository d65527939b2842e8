"""Which images are seen when: each once an epoch, in one order, on any number of processes and after any stop."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmgan_fast.data.order import Batches, Shards, Visit, epoch_order, windows
from dmgan_fast.errors import InputError


@st.composite
def shards_of(draw, size):
    """No shards, or up to eight of any sizes, some of them empty of this split."""
    count = draw(st.integers(0, min(8, size)))
    if not count:
        return None
    of = draw(st.lists(st.integers(0, count - 1), min_size=size, max_size=size))
    return Shards(torch.tensor(of), draw(st.integers(1, 4)))


@st.composite
def epochs(draw):
    size = draw(st.integers(1, 60))
    batch_size = draw(st.integers(1, size))
    return size, batch_size, draw(shards_of(size)), draw(st.integers(0, 2**31)), draw(st.integers(0, 5))


@st.composite
def splits(draw, batch_size):
    """The rows of each of one to eight processes: as even as can be, or any at all."""
    processes = draw(st.integers(1, min(8, batch_size)))
    if draw(st.booleans()):
        ends = [rank * batch_size // processes for rank in range(processes + 1)]
    else:
        inner = draw(st.lists(st.integers(0, batch_size), min_size=processes - 1, max_size=processes - 1))
        ends = [0, *sorted(inner), batch_size]
    return [range(*pair) for pair in pairwise(ends)]


@given(epochs(), st.data())
@settings(max_examples=250, deadline=None)
def test_over_any_processes_workers_and_stops_each_image_is_seen_once_in_the_same_order(epoch_of, data):
    """Several processes start, stop after any number of batches, and go on as another number of processes.

    Each process reads its batches with workers, which take them in turn; what they hand over in turn is put together.
    """
    size, batch_size, shards, seed, epoch = epoch_of
    alone = [
        visit.image for batch in Batches(size, batch_size, seed=seed, epoch=epoch, shards=shards) for visit in batch
    ]
    per_epoch = size // batch_size
    assert len(alone) == len(set(alone)) == per_epoch * batch_size
    assert alone == epoch_order(size, seed, epoch, shards)[: len(alone)].tolist()
    seen, done = [], 0
    while done < per_epoch:
        until = data.draw(st.integers(done + 1, per_epoch), label="stops after batch")
        parts = []
        for rows in data.draw(splits(batch_size), label="processes"):
            batches = list(
                Batches(size, batch_size, seed=seed, epoch=epoch, start_batch=done, rows=rows, shards=shards)
            )
            workers = data.draw(st.integers(1, 4), label="workers")
            shares = [batches[worker::workers] for worker in range(workers)]
            parts.append([shares[number % workers][number // workers] for number in range(len(batches))])
            assert len(batches) == per_epoch - done
        for number in range(until - done):
            seen += [visit.image for part in parts for visit in part[number]]
        done = until
    assert seen == alone


@given(epochs())
@settings(max_examples=100, deadline=None)
def test_an_order_is_every_image_once_and_another_in_another_epoch_or_with_another_seed(epoch_of):
    size, _, shards, seed, epoch = epoch_of
    order = epoch_order(size, seed, epoch, shards)
    assert sorted(order.tolist()) == list(range(size))
    assert torch.equal(order, epoch_order(size, seed, epoch, shards))
    if size >= 20 and shards is None:
        assert not torch.equal(order, epoch_order(size, seed, epoch + 1, shards))
        assert not torch.equal(order, epoch_order(size, seed + 1, epoch, shards))


@given(epochs())
@settings(max_examples=100, deadline=None)
def test_no_more_than_a_window_of_shards_is_at_hand_at_a_time(epoch_of):
    size, _, shards, seed, epoch = epoch_of
    if shards is None:
        return
    found = windows(size, seed, epoch, shards)
    for chosen, indices in found:
        assert len(chosen) <= shards.window
        assert {int(shards.of[index]) for index in indices} <= set(chosen)
    assert sorted(shard for chosen, _ in found for shard in chosen) == list(range(int(shards.of.max()) + 1))


def test_shards_that_fit_one_window_are_shuffled_as_if_there_were_none():
    shards = Shards(torch.arange(30) // 10, window=3)
    assert torch.equal(epoch_order(30, 1, 2, shards), epoch_order(30, 1, 2))
    assert not torch.equal(epoch_order(30, 1, 2, shards._replace(window=2)), epoch_order(30, 1, 2))


def test_images_of_a_window_are_mixed():
    """Of ten shards of a hundred, two at a time: what follows an image is as often of the other shard."""
    order = epoch_order(1000, 0, 0, Shards(torch.arange(1000) // 100, window=2)) // 100
    changes = int((order[1:] != order[:-1]).sum())
    assert 400 < changes < 600


def test_endless_batches_are_those_of_one_epoch_after_another():
    endless = iter(Batches(10, 3, seed=4, epoch=2, start_batch=1, endless=True))
    got = [next(endless) for _ in range(2 + 3 + 3)]
    expected = [
        batch
        for epoch, start in ((2, 1), (3, 0), (4, 0))
        for batch in Batches(10, 3, seed=4, epoch=epoch, start_batch=start)
    ]
    assert got == expected
    assert [batch[0].epoch for batch in got] == [2] * 2 + [3] * 3 + [4] * 3
    assert all(isinstance(visit, Visit) for batch in got for visit in batch)


def test_the_order_of_an_epoch_is_the_one_it_always_was():
    """Runs that were begun before go on in their order."""
    assert epoch_order(12, 7, 3).tolist() == [5, 0, 11, 4, 9, 10, 6, 3, 2, 7, 8, 1]


def test_sizes_that_do_not_fit_are_refused():
    for batch_size in (0, 11):
        with pytest.raises(InputError, match=r"batch_size must lie in 1\.\.10"):
            Batches(10, batch_size, seed=0)
    with pytest.raises(InputError, match="start_batch must be 0 or more, got -1"):
        Batches(10, 2, seed=0, start_batch=-1)
