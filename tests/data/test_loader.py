"""Items and batches depend on seed, epoch and index only."""

import os
import signal
from itertools import islice
from multiprocessing import active_children, get_context

import pytest
import torch
from PIL import Image

from dmgan_fast.data import CaptionedImages, Record, Vocabulary, loader, make_loader, open_dataset
from dmgan_fast.data.loader import ImageBatch, loader_in_order
from dmgan_fast.errors import DataError, InputError
from tests.data.small import open_small


def flat(batches):
    return [
        [*(image for image in b.images), b.captions, b.lengths, b.class_ids, torch.tensor([hash(k) for k in b.keys])]
        for b in batches
    ]


def same(first, second):
    first, second = flat(first), flat(second)
    return len(first) == len(second) and all(
        torch.equal(x, y) for one, other in zip(first, second, strict=True) for x, y in zip(one, other, strict=True)
    )


@pytest.fixture
def train(pictures):
    return open_dataset(pictures, image_sizes=(8, 16, 32), max_words=5, seed=3)


def test_batch_shapes_types_and_range(train):
    batch = next(iter(make_loader(train, 3)))
    assert [tuple(image.shape) for image in batch.images] == [(3, 3, 8, 8), (3, 3, 16, 16), (3, 3, 32, 32)]
    assert all(image.dtype == torch.float32 for image in batch.images)
    assert all(image.min() >= -1 and image.max() <= 1 for image in batch.images)
    assert batch.captions.shape == (3, 5)
    assert {batch.captions.dtype, batch.lengths.dtype, batch.class_ids.dtype} == {torch.int64}
    for caption, length in zip(batch.captions, batch.lengths, strict=True):
        assert (caption[:length] > 0).all()
        assert (caption[length:] == 0).all()
    assert len(set(batch.keys)) == 3


def test_any_number_of_workers_gives_the_same_data(train):
    alone = list(make_loader(train, 3, seed=1, epoch=2))
    assert same(alone, make_loader(train, 3, seed=1, epoch=2, workers=2))


def test_same_epoch_repeats_and_another_seed_or_epoch_differs(train):
    first = list(make_loader(train, 4, seed=1, epoch=0))
    assert same(first, make_loader(train, 4, seed=1, epoch=0))
    assert not same(first, make_loader(train, 4, seed=1, epoch=1))
    assert not same(first, make_loader(train, 4, seed=2, epoch=0))
    orders = {tuple(k for b in make_loader(train, 4, seed=n // 4, epoch=n % 4) for k in b.keys) for n in range(8)}
    assert len(orders) == 8


def test_resuming_mid_epoch_yields_the_rest_of_the_epoch(train):
    whole = list(make_loader(train, 2, seed=1, epoch=5))
    assert len(whole) == 4
    for done in range(5):
        rest = make_loader(train, 2, seed=1, epoch=5, start_batch=done)
        assert len(rest) == 4 - done
        assert same(whole[done:], rest)


def test_an_epoch_visits_each_picture_once_and_drops_the_incomplete_batch(train):
    keys = [key for batch in make_loader(train, 3) for key in batch.keys]
    assert len(keys) == len(set(keys)) == 6


def test_item_depends_on_seed_epoch_and_index(train):
    def look(epoch, index=0):
        train.set_epoch(epoch)
        item = train[index]
        return item.caption.tolist(), item.images[-1].mean().item()

    assert look(0) == look(0)
    before = look(1, 3)
    look(1, 5)
    assert look(1, 3) == before
    assert len({tuple(look(epoch)[0]) for epoch in range(12)}) > 2  # captions and words of the long one vary


@pytest.mark.parametrize("batch_size", [0, -1, 9])
def test_impossible_batch_size_names_the_allowed_range(train, batch_size):
    with pytest.raises(InputError, match=r"1\.\.8"):
        make_loader(train, batch_size)


def test_bad_arguments_are_refused(tmp_path, train):
    record = Record("a", tmp_path / "a.jpg", ("words",), 0)
    vocabulary = Vocabulary.from_captions(["words"])
    with pytest.raises(InputError, match="start_batch"):
        make_loader(train, 2, start_batch=-1)
    for sizes in ((), (16, 8), (0, 8)):
        with pytest.raises(InputError, match="image_sizes"):
            CaptionedImages([record], vocabulary, sizes, 4)
    with pytest.raises(InputError, match="max_words"):
        CaptionedImages([record], vocabulary, (8,), 0)
    with pytest.raises(DataError, match="no images"):
        CaptionedImages([], vocabulary, (8,), 4)
    with pytest.raises(DataError, match="no caption at all"):
        CaptionedImages([Record("a", tmp_path / "a.jpg", (), 0)], vocabulary, (8,), 4)


def test_missing_picture_in_a_worker_is_named(pictures):
    data = open_small(pictures)
    (pictures / "p1.jpg").unlink()
    with pytest.raises(DataError, match=r"p1\.jpg"):
        list(make_loader(data, 4, workers=1))


def test_the_pixels_of_a_batch_are_those_of_its_items(pictures):
    """What workers send is finished for a whole batch at once: cropped, some mirrored, scaled."""
    for file in pictures.glob("*.jpg"):
        Image.effect_noise((50, 40), 90).convert("RGB").save(file)
    data = open_dataset(pictures, image_sizes=(8, 16, 32), max_words=5, seed=3)
    batch = next(iter(make_loader(data, 8, seed=1, epoch=2)))
    data.set_epoch(2)
    flips = [data.visit(2, index).flip for index in range(8)]
    assert set(flips) == {True, False}
    items = {record.key: data[index] for index, record in enumerate(data.records)}
    for number, key in enumerate(batch.keys):
        assert torch.equal(batch.captions[number], items[key].caption)
        for side, image in zip(batch.images, items[key].images, strict=True):
            assert torch.equal(side[number], image)


def test_endless_batches_go_on_through_epochs_by_the_same_workers(train):
    def epoch(number, start=0):
        return list(make_loader(train, 3, seed=1, epoch=number, start_batch=start))

    endless = make_loader(train, 3, seed=1, epoch=4, start_batch=1, endless=True, workers=1)
    got = list(islice(endless, 1 + 2 + 2))
    assert same(got, [*epoch(4, 1), *epoch(5), *epoch(6)])


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_together_read_the_batches_of_one(train, workers):
    whole = list(make_loader(train, 5, seed=1, epoch=2))
    parts = [make_loader(train, 5, seed=1, epoch=2, rows=rows, workers=workers) for rows in (range(2), range(2, 5))]
    joined = [
        ImageBatch(
            [torch.cat(sides) for sides in zip(a.images, b.images, strict=True)],
            *(torch.cat(pair) for pair in zip(a[1:4], b[1:4], strict=True)),
            a.keys + b.keys,
        )
        for a, b in zip(*parts, strict=True)
    ]
    assert same(whole, joined)


def test_workers_share_what_they_decode(pictures, monkeypatch):
    data = open_dataset(pictures, image_sizes=(8, 16), cache_bytes=1 << 20)
    first = list(make_loader(data, 4, workers=2))
    assert len(data.cache) == 8
    monkeypatch.setattr("dmgan_fast.data.dataset.read_image", None)
    assert same(first, make_loader(data, 4, workers=2))
    assert same(first, make_loader(data, 4))


def test_all_are_read_in_order_to_the_last(train):
    batches = list(loader_in_order(train, 3))
    assert [len(batch.keys) for batch in batches] == [3, 3, 2]
    assert [key for batch in batches for key in batch.keys] == [record.key for record in train.records]


def test_workers_outlive_a_signal_of_others_and_end_by_that_of_their_own_process(train):
    """A scheduler signals all; a process that exits with a loader open ends its workers, and waits for them."""
    before = {process.pid for process in active_children()}  # of tests before this one, which may end late
    batches = iter(make_loader(train, 2, endless=True, workers=1))
    next(batches)
    (worker,) = (process for process in active_children() if process.pid not in before)
    other = get_context("fork").Process(target=os.kill, args=(worker.pid, signal.SIGTERM))
    other.start()
    other.join()
    worker.join(0.3)
    assert worker.is_alive()
    for _ in range(8):  # more than were read ahead
        next(batches)
    worker.terminate()
    worker.join(30)
    assert not worker.is_alive()


def test_workers_start_with_sigterm_blocked(train, tmp_path, monkeypatch):
    """One that reaches them before they have prepared must not end them either."""
    prepare = loader._leave_signals_to_the_main_process

    def told(worker):
        (tmp_path / str(worker)).write_text(str(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        prepare(worker)

    monkeypatch.setattr(loader, "_leave_signals_to_the_main_process", told)
    assert len(list(make_loader(train, 4, workers=2))) == 2
    assert [(tmp_path / name).read_text() for name in "01"] == ["True", "True"]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
