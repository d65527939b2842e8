"""Losses of words and sentences: batches of one, padding, class ids, half precision."""

import pytest
import torch

from dmgan_fast import losses
from tests.losses.small import B, T, codes, inputs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_damsm_losses_of_one_are_zero_with_zero_gradients():
    regions, words, lengths = inputs(1)
    image, sentence = codes(1)
    for ids in (None, torch.tensor([3])):
        both = (*losses.words_loss(regions, words, lengths, ids), *losses.sentence_loss(image, sentence, ids))
        assert [loss.item() for loss in both] == [0, 0, 0, 0]
        sum(both).backward()
    assert all((leaf.grad == 0).all() for leaf in (regions, words, image, sentence))


def test_one_class_only_gives_zero_and_all_classes_give_the_unmasked_loss():
    regions, words, lengths = inputs()
    assert [loss.item() for loss in losses.words_loss(regions, words, lengths, torch.full((B,), 7))] == [0, 0]
    assert [loss.item() for loss in losses.sentence_loss(*codes(), torch.full((B,), 7))] == [0, 0]
    different = losses.words_loss(regions, words, lengths, torch.arange(B))
    torch.testing.assert_close(different, losses.words_loss(regions, words, lengths))


def test_pairs_of_one_class_do_not_count_against_each_other():
    image, sentence = codes()
    scores = 10 * torch.cosine_similarity(image[:, None], sentence[None], 2)
    kept = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]  # 0 and 2 are of one class
    expected = sum(scores[i][kept[i]].logsumexp(0) - scores[i, i] for i in range(B)) / B
    found, _ = losses.sentence_loss(image, sentence, torch.tensor([5, 1, 5, 2]))
    torch.testing.assert_close(found, expected)


def test_padding_has_neither_weight_nor_gradient():
    regions, words, lengths = inputs()
    found = losses.words_loss(regions, words, lengths)
    sum(found).backward()
    padding = torch.arange(T) >= lengths[:, None]
    assert (words.grad.movedim(1, 2)[padding] == 0).all()
    assert (words.grad.movedim(1, 2)[~padding] != 0).any(1).all()
    other = words.detach().masked_fill(padding[:, None], 50.0)
    assert losses.words_loss(regions, other, lengths) == found


def test_zero_features_give_finite_losses_and_gradients():
    regions, words, lengths = inputs()
    image, sentence = codes()
    leaves = [leaf.detach().zero_().requires_grad_() for leaf in (regions, words, image, sentence)]
    total = sum(losses.words_loss(leaves[0], leaves[1], lengths)) + sum(losses.sentence_loss(*leaves[2:]))
    total.backward()
    assert total.isfinite()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_half_precision_pictures_meet_float32_text():
    regions, words, lengths = inputs(dtype=torch.float32)
    image, sentence = codes(dtype=torch.float32)
    assert all(loss.isfinite() for loss in losses.words_loss(regions.bfloat16(), words, lengths))
    assert all(loss.isfinite() for loss in losses.sentence_loss(image.bfloat16(), sentence))
