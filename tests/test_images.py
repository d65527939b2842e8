"""Tensors as images that people look at."""

import torch
from PIL import Image

from dmgan_fast import images


def test_numbers_are_cut_to_bytes_as_the_authors_files_are():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 2.0])
    assert images.to_bytes(values).tolist() == [0, 0, 127, 254, 255, 255]


def test_an_image_has_its_colours_at_its_places():
    image = torch.full((3, 2, 4), -1.0)
    image[0, 1, 3] = 1.0
    picture = images.pil_image(image)
    assert (picture.size, picture.getpixel((3, 1)), picture.getpixel((0, 0))) == ((4, 2), (255, 0, 0), (0, 0, 0))


def test_a_map_is_red_where_its_weight_is():
    weight = torch.tensor([[0.0, 1.0]])
    shaded = images.shade(torch.zeros(3, 4, 8), weight)
    red, green, _ = shaded.getpixel((7, 0))
    assert red > 2 * green
    assert len(set(shaded.getpixel((0, 0)))) == 1


def test_maps_share_a_scale_and_maps_of_nothing_stay_finite():
    maps = torch.tensor([[[0.1]], [[0.4]]])
    torch.testing.assert_close(images.relative(maps).flatten(), torch.tensor([0.25, 1.0]))
    assert images.relative(torch.zeros(2, 1, 1)).isfinite().all()


def test_a_grid_has_a_row_for_each_caption_at_the_largest_resolution():
    row = [torch.full((3, 8, 8), -1.0), torch.full((3, 16, 16), 1.0)]
    sheet = images.grid([row, row, row])
    assert sheet.size == (2 * 18 + 2, 3 * 18 + 2)
    assert (sheet.getpixel((5, 5)), sheet.getpixel((27, 5))) == ((0, 0, 0), (255, 255, 255))


def test_a_contact_sheet_grows_by_rows_and_writes_captions_below():
    image = torch.full((3, 16, 16), 1.0)
    one = images.contact_sheet([("", image)] * 4)
    two = images.contact_sheet([("", image)] * 5)
    assert (two.width, two.height > one.height) == (one.width, True)
    said = images.contact_sheet([("a red bird", image)])
    below = said.crop((0, images.MARGIN + images.SHEET_SIDE, said.width, said.height))
    assert below.convert("L").getextrema()[0] < 128


def test_a_saved_image_is_a_png_whatever_its_name(tmp_path):
    images.save_image(Image.new("RGB", (3, 2), "navy"), tmp_path / "a.image")
    with Image.open(tmp_path / "a.image") as saved:
        assert (saved.format, saved.size, saved.getpixel((0, 0))) == ("PNG", (3, 2), (0, 0, 128))
