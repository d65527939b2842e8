"""A part of a data set, at small resolutions."""

from dmgan_fast.data import open_dataset

SIZES = (8, 16)


def open_small(source, split="train", **options):
    return open_dataset(source, split, image_sizes=SIZES, **options)
