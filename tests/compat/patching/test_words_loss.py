"""Others' words loss, patched."""

import types

import numpy as np
import pytest
import torch

from dmgan_fast.compat import patch
from dmgan_fast.losses import words_loss
from tests.compat.patched import close, weighted


def losses_of(function, class_ids=None, labels=True):
    draw = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*s, generator=draw, dtype=torch.float64).requires_grad_() for s in ((3, 6, 4, 4), (3, 6, 5))]
    order = [2, 0, 1] if class_ids is None else [0, 1, 2]  # pairs of one class can't be right ones
    given = torch.tensor(order) if labels else None
    one, other, maps = function(*leaves, given, torch.tensor([5, 2, 3]), class_ids, 3)
    results = [*([one, other] if labels else []), *maps]
    weighted(results).backward()
    return [*results, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("class_ids", [None, np.array([1, 1, 2])])
def test_the_patched_words_loss_is_the_loop(source, class_ids, labels):
    expected = losses_of(source.words_loss, class_ids, labels)
    with patch(source) as handle:
        assert [e.replaced for e in handle.report() if e.what == "words loss"] == [True]
        assert source.words_loss.__name__ == "words_loss"
        found = losses_of(source.words_loss, class_ids, labels)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
        source.cfg.TRAIN.SMOOTH.GAMMA2 = 2.0  # as configured at the call
        changed = losses_of(source.words_loss, class_ids, labels)
    for one, other in zip(changed, losses_of(source.words_loss, class_ids, labels), strict=True):
        close(one, other)


def test_a_words_loss_that_was_changed_is_left_alone_with_the_reason(source):
    original = source.words_loss
    source.words_loss = changed = types.FunctionType(
        (
            lambda img_features, words_emb, labels, cap_lens, class_ids, batch_size: (img_features.mean(), None, [])
        ).__code__,
        vars(source),
        "words_loss",
    )
    with patch(source) as handle:
        (left,) = [e for e in handle.report().left if e.what == "words loss"]
        assert "differs" in left.reason or "has other parts" in left.reason
        assert source.words_loss is changed
    source.words_loss = original
    del source.cfg.TRAIN.SMOOTH.GAMMA3
    (left,) = [e for e in patch(source).report().left if e.what == "words loss"]
    assert "cfg.TRAIN.SMOOTH" in left.reason


def test_the_patched_words_loss_is_the_librarys(source):
    regions, words = torch.randn(3, 6, 4, 4), torch.randn(3, 6, 5)
    lengths, ids = torch.tensor([5, 2, 3]), np.array([4, 4, 1])
    with patch(source):
        found = source.words_loss(regions, words, torch.arange(3), lengths, ids, 3)[:2]
    for one, other in zip(found, words_loss(regions, words, lengths, torch.from_numpy(ids)), strict=True):
        torch.testing.assert_close(one, other)
