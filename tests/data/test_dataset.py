"""Images at every resolution, with the words of a caption."""

import pytest
import torch
from PIL import Image

from dmgan_fast.data import CaptionedImages, Vocabulary
from dmgan_fast.data.dataset import Record, crop_to_box, read_image
from dmgan_fast.errors import DataError
from tests.data.miniature import write_picture
from tests.data.small import open_small


# The published crop: half the side of the square is 0.75 of the box's longer side, cut at the picture's border.
@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((10, 5, 20, 10), (30, 25)),  # centre (20, 10), r 15: 5..35 across, 0..25 down
        ((50, 30, 500, 500), (60, 40)),  # far beyond the picture: cut to it
        ((-20, -20, 30, 30), (17, 17)),
        ((3, 3, 1, 1), (60, 40)),  # r = 0: no area, so the whole picture
        ((1000, 1000, 10, 10), (60, 40)),
        ((10, 10, float("nan"), 4), (6, 6)),
        (None, (60, 40)),
    ],
)
def test_published_crop(box, size):
    assert crop_to_box(Image.new("RGB", (60, 40)), box).size == size


def test_published_crop_takes_the_right_pixels():
    picture = Image.new("L", (60, 40))
    picture.putdata([x + y for y in range(40) for x in range(60)])
    assert crop_to_box(picture, (30, 10, 10, 20)).getpixel((0, 0)) == 20 + 5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_pictures_become_rgb(tmp_path, mode):
    write_picture(tmp_path / "a.jpg", colour=(120, 120, 120), mode=mode)
    picture = read_image(Record("a", tmp_path / "a.jpg", ("a",), 0))
    assert picture.mode == "RGB"
    assert all(abs(value - 120) < 6 for value in picture.getpixel((5, 5)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = Record("a", tmp_path / "clear.png", ("a",), 0)
    assert read_image(clear).getpixel((4, 4)) == (255, 255, 255)
    Image.new("RGBA", (9, 9), (255, 255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    assert read_image(Record("a", tmp_path / "a.png", ("a",), 0)).getpixel((4, 4)) == (255, 255, 255)


def test_missing_and_truncated_pictures_are_named(coco):
    data = open_small(coco)
    file = coco / "images/COCO_1.jpg"
    whole = file.read_bytes()
    for content in (whole[: len(whole) * 2 // 3], whole[:10], b"", b"no picture"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"can't be read.*COCO_1\.jpg"):
            data[0]
    file.unlink()
    with pytest.raises(DataError, match=r"not found.*COCO_1\.jpg"):
        data[0]


def test_caption_without_a_known_word_names_the_picture(pictures):
    with pytest.raises(DataError, match=r"p1\.jpg.*known word"):
        open_small(pictures, vocabulary=Vocabulary(["<end>", "zebra"]))


def test_unknown_words_are_dropped_and_captions_without_known_words_are_not_chosen(pictures):
    data = open_small(pictures, vocabulary=Vocabulary(["<end>", "the", "view"]))
    for epoch in range(6):
        data.set_epoch(epoch)
        assert data[0].length == 1
        assert data[0].caption[0] in (1, 2)


def gradient_set(tmp_path, **options):
    """One picture, brighter to the right, so that flips and crops show."""
    picture = Image.linear_gradient("L").rotate(90).resize((64, 64))
    picture.convert("RGB").save(tmp_path / "g.png")
    record = Record("g", tmp_path / "g.png", ("the first words of a longer caption", "other words"), 0)
    return CaptionedImages([record], Vocabulary.from_captions(record.captions), (16, 32), 4, **options)


def test_training_flips_and_crops_and_testing_does_neither(tmp_path):
    data = gradient_set(tmp_path)
    slopes, crops = set(), set()
    for epoch in range(20):
        data.set_epoch(epoch)
        image = data[0].images[1]
        slopes.add(bool(image[0, 0, 0] < image[0, 0, -1]))
        crops.add(round(image.mean().item(), 4))
    assert slopes == {True, False}
    assert len(crops) > 2
    data = gradient_set(tmp_path, augment=False)
    first = data[0]
    data.set_epoch(9)
    assert torch.equal(first.images[1], data[0].images[1])
    assert torch.equal(first.caption, data[0].caption)
    assert abs(first.images[1].mean()) < 0.02  # the centre


def test_smaller_sides_are_the_same_crop(tmp_path):
    data = gradient_set(tmp_path)
    for epoch in range(5):
        data.set_epoch(epoch)
        small, large = data[0].images
        pooled = torch.nn.functional.avg_pool2d(large, 2)
        assert torch.allclose(small[:, 1:-1, 1:-1], pooled[:, 1:-1, 1:-1], atol=0.02)


def test_margin_one_keeps_the_picture_whole(tmp_path):
    data = gradient_set(tmp_path, margin=1.0, augment=False)
    image = data[0].images[1]
    assert max(image.max().item(), -image.min().item()) > 0.95
    cropped = gradient_set(tmp_path, augment=False)[0].images[1]
    assert cropped.max() < image.max()


def test_cached_pictures_equal_decoded_ones(tmp_path):
    kept, read = gradient_set(tmp_path, cache_bytes=1 << 20), gradient_set(tmp_path)
    first = kept[0].images[1].clone()
    kept[0].images[1].zero_()
    assert torch.equal(kept[0].images[1], first)
    assert torch.equal(read[0].images[1], first)


def test_pictures_of_any_shape_fill_the_sides(tmp_path):
    for size in ((1, 1), (300, 2), (3, 200)):
        write_picture(tmp_path / "odd.jpg", size=size)
        record = Record("odd", tmp_path / "odd.jpg", ("words",), 0)
        data = CaptionedImages([record], Vocabulary.from_captions(["words"]), (8, 16), 4)
        assert [tuple(image.shape) for image in data[0].images] == [(3, 8, 8), (3, 16, 16)]


def test_images_are_scaled_as_ever(tmp_path):
    """Against the formula on one picture: crop, mirror, resample, range."""
    data = gradient_set(tmp_path)
    for epoch in range(4):
        raw = data.visit(epoch, 0)
        whole = (raw.image.flip(2) if raw.flip else raw.image)[None].float()
        small = torch.nn.functional.interpolate(whole, size=(16, 16), mode="bilinear", antialias=True)
        data.set_epoch(epoch)
        assert torch.equal(data[0].images[0], small[0] / 127.5 - 1)
        assert torch.equal(data[0].images[1], whole[0] / 127.5 - 1)
