"""The Triton kernels of words_similarity, interpreted."""

import pytest
import torch

from tests.kernels.dense import DTYPES, check_words

from dmgan_fast.kernels import words_similarity  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of lanes that are masked off


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "lengths"), [((2, 5, 7, 10), [7, 3, 1]), ((1, 48, 1, 33), [1]), ((2, 70, 33, 65), [33, 17])]
)
def test_words_similarity_is_as_accurate_as_eager(sizes, lengths, dtype):
    check_words(words_similarity, sizes, lengths, dtype)


def test_a_caption_of_padding_matches_nothing_and_gets_no_gradient():
    results = check_words(words_similarity, (2, 32, 18, 17), [18, 0, 5], torch.float32)
    assert (results["grad_words"][1] == 0).all()


def test_captions_beyond_one_group_are_scored():
    check_words(words_similarity, (1, 8, 4, 9), [4, 3] * 8 + [1], torch.float32)


def test_a_sharp_softmax_over_regions_does_not_underflow():
    check_words(words_similarity, (2, 16, 5, 40), [5, 2], torch.float32, gamma1=200.0)


def test_the_product_of_norms_is_clamped_as_in_the_reference():
    check_words(words_similarity, (2, 16, 5, 20), [5, 2], torch.float32, scale=1e-5)
