"""The sets of images: what is generated from which caption, what real images become, folders of any origin."""

import json
from collections import Counter

import pytest
import torch
from PIL import Image

from dmgan_fast.data import open_dataset
from dmgan_fast.errors import DataError, InputError
from dmgan_fast.evaluation.sources import FolderImages, Gallery, GeneratedImages, RealImages, chosen_words
from dmgan_fast.images import to_bytes
from dmgan_fast.sampling.sampler import POSITION_STRIDE, Sampler


def drawn(trained, pictures, **options):
    sampler = Sampler.from_pretrained(trained)
    dataset = open_dataset(pictures, "test", image_sizes=(128,), vocabulary=sampler.vocabulary)
    settings = {"weights": "hash", "count": 20, "seed": 3, "max_words": 4, "batch_size": 5} | options
    return GeneratedImages(sampler, dataset, **settings)


def test_every_image_is_shown_in_turn_and_no_caption_twice_before_all_were_used(trained, pictures):
    source = drawn(trained, pictures, count=8 * 4)
    dataset = open_dataset(pictures, "test", image_sizes=(128,))
    assert source.class_ids == [record.class_id for record in dataset.records] * 4
    for index, record in enumerate(dataset.records):
        turns = source.captions[index::8]
        assert sorted(turns[:2]) == sorted(turns[2:]) == sorted(record.captions)
    firsts = [record.captions.index(said) for record, said in zip(dataset.records, source.captions, strict=False)]
    assert set(firsts) == {0, 1}  # not always the first caption first
    assert source.captions == drawn(trained, pictures, count=8 * 4).captions
    assert source.captions[:8] != drawn(trained, pictures, seed=4).captions[:8]


def test_an_image_depends_on_its_place_and_not_on_the_rows_asked_for(trained, pictures):
    source = drawn(trained, pictures)
    whole = source.images(range(0, 20))
    assert whole.dtype == torch.uint8
    assert whole.shape == (20, 3, 128, 128)
    assert torch.equal(whole[5:15], source.images(range(5, 15)))
    words = source.sampler.vocabulary.encode(source.captions[7])[0]
    image = source.sampler.generate([words], [3 * POSITION_STRIDE + 7]).images[-1]
    assert (whole[7].int() - to_bytes(image[0]).int()).abs().max() <= 1


def test_the_key_changes_with_everything_that_changes_images(trained, pictures):
    keys = [
        drawn(trained, pictures, **options).key
        for options in ({}, {"seed": 4}, {"count": 19}, {"max_words": 3}, {"weights": "other"}, {"batch_size": 4})
    ]
    assert len(set(keys)) == len(keys)
    assert drawn(trained, pictures).key == keys[0]


def test_nan_images_are_named_and_not_rounded_to_black(trained, pictures):
    source = drawn(trained, pictures)
    with torch.no_grad():
        source.sampler.generator.initial_stage.projection.weight.fill_(torch.nan)
    with pytest.raises(InputError, match=r"gave NaN or infinity for 5 of 5 images; the first is image 10, 'one"):
        source.images(range(10, 20))


def test_words_of_a_long_caption_depend_on_its_place_only():
    caption = list(range(1, 61))
    assert chosen_words(caption, 25, 7) == chosen_words(caption, 25, 7)
    assert len(chosen_words(caption, 25, 7)) == 25
    assert chosen_words(caption, 25, 7) != chosen_words(caption, 25, 8)
    assert chosen_words([5], 25, 7) == [5]


def test_real_images_are_the_data_sets_own_bytes(pictures):
    dataset = open_dataset(pictures, "test", image_sizes=(64,))
    real = RealImages(dataset)
    got = real.images(range(2, 5))
    assert torch.equal(got.float() / 127.5 - 1, torch.stack([dataset[k].images[-1] for k in range(2, 5)]))
    assert real.images(range(2, 5)).dtype == torch.uint8
    assert len(real) == 8


def test_the_key_of_real_images_is_that_of_their_contents(pictures, tmp_path):
    def key(folder, side=64):
        return RealImages(open_dataset(folder, "test", image_sizes=(side,))).key

    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in pictures.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert key(copy) == key(pictures)
    assert key(copy, side=32) != key(pictures)
    name = next(copy.glob("test-*.png"))
    Image.new("RGB", (64, 64), "pink").save(name)
    assert key(copy) != key(pictures)


def test_a_folder_is_read_in_the_order_of_its_names_with_those_below(tmp_path):
    for k, name in enumerate(["b.png", "a/2.jpg", "a/1.PNG", "c.webp"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (50 * k, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    source = FolderImages(tmp_path)
    assert [record.key for record in source.records] == ["a/1.PNG", "a/2.jpg", "b.png", "c.webp"]
    assert source.images(range(4))[:, 0, 0, 0].tolist() == pytest.approx([100, 50, 0, 150], abs=3)
    assert (source.resolution, source.captions) == (16, None)
    assert len(FolderImages(tmp_path, count=3)) == 3


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [
        ([(16, 16), (16, 16), (20, 20)], None, "all of one size; 0.png is 16x16, 2.png is 20x20"),
        ([(16, 20)], None, "must be square and all of one size; 0.png is 16x20"),
        ([(16, 16)], 2, "has 1 images, but 2 were asked for"),
        ([], None, "has no images"),
    ],
)
def test_folders_that_cannot_be_compared_are_refused(tmp_path, sizes, count, message):
    for k, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{k}.png")
    with pytest.raises(DataError, match=message):
        FolderImages(tmp_path, count)


def test_broken_and_missing_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no images at .*nowhere': not a folder"):
        FolderImages(tmp_path / "nowhere")
    Image.effect_noise((16, 16), 90).convert("RGB").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"can't be read: .*b\.png"):
        FolderImages(tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"can't be read: .*b\.png"):
        FolderImages(tmp_path).images(range(2))


def test_a_gallery_is_a_folder_with_captions(tmp_path):
    gallery = Gallery(tmp_path)
    pictures = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert not gallery.has(range(3))
    gallery.write(pictures, range(3))
    gallery.write_captions(["a red bird", "einen Käfer", "a bird"], [4, 5, 4])
    assert gallery.has(range(3))
    source = FolderImages(tmp_path)
    assert torch.equal(source.images(range(3)), pictures)
    assert source.captions == ["a red bird", "einen Käfer", "a bird"]
    assert Counter(source.class_ids) == {4: 2, 5: 1}


def test_captions_of_some_images_only_are_none(tmp_path):
    for name in "ab":
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "a.png", "captions": ["a"]}))
    assert FolderImages(tmp_path).captions is None
