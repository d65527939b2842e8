"""Text files: what stands in their place is named."""

import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.errors import DataError
from tests.data.published import POINTER, flowers, put


@pytest.mark.parametrize(
    "name", ["captions.jsonl", "metadata.csv", "metadata.parquet", "train/filenames.pickle", "train-0.tar", "setid.mat"]
)
def test_a_pointer_in_place_of_a_list_is_named(tmp_path, name):
    if name == "setid.mat":
        flowers(tmp_path)
    put(tmp_path / name, POINTER)
    with pytest.raises(DataError, match=rf"{name}.* can't be read: it is a Git LFS pointer"):
        open_dataset(tmp_path)
