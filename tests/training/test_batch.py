"""Batches move as a whole."""

import torch

from dmgan_fast.training.batch import Batch


def test_every_tensor_moves_and_what_is_not_there_stays_away():
    lengths = torch.tensor([2, 3])
    images = [torch.rand(2, 3, side, side) for side in (64, 128)]
    words, sentence, mask = torch.rand(2, 4, 3), torch.rand(2, 4), torch.zeros(2, 3, dtype=torch.bool)
    moved = Batch(images, words, sentence, mask, lengths).to("meta")
    tensors = (*moved.images, moved.words, moved.sentence, moved.padding_mask, moved.lengths)
    assert [x.device.type for x in tensors] == ["meta"] * 6
    assert [image.shape[-1] for image in moved.images] == [64, 128]
    assert moved.class_ids is None
    assert images[0].device.type == "cpu"
