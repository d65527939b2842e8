"""Sizes of memory as people write and read them."""

import pytest

from dmgan_fast.errors import InputError
from dmgan_fast.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 << 30),
        ("1.5 GiB", 3 << 29),
        ("900MB", 900_000_000),
        ("4096", 4096),
        ("2KiB", 2048),
        (" 3TB ", 3 * 10**12),
        ("7B", 7),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GiB", "0", "0.2B", "24 Gb", "3GiBs", "24G", "1,5GiB", "2GiB on", "iB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match="memory must be written as 24GiB"):
        parse_size(text)
