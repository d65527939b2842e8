"""The text encoder."""

import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.modules import TextEncoder, TextEncoderConfig


def test_text_encoder_ignores_what_stands_in_the_padding():
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=20, word_channels=8, embedding_channels=6)).eval()
    captions = torch.randint(1, 20, (2, 6))
    lengths = torch.tensor([6, 3])
    words, sentence = encoder(captions, lengths)
    captions[1, 3:] = 0
    again, same_sentence = encoder(captions, lengths)
    assert torch.equal(words, again)
    assert torch.equal(sentence, same_sentence)
    assert words.shape == (2, 8, 6)
    assert words[1, :, 3:].abs().max() == 0


@pytest.mark.parametrize("lengths", [[0, 3], [3, 7]])
def test_text_encoder_refuses_lengths_out_of_range(lengths):
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=20, word_channels=8, embedding_channels=6))
    with pytest.raises(InputError, match=r"lengths must lie in 1\.\.6"):
        encoder(torch.ones(2, 6, dtype=torch.int64), torch.tensor(lengths))
