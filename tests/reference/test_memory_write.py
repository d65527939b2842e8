"""memory_write, word by word."""

import torch

from dmgan_fast.reference.memory_write import MemoryWeights, memory_write


def test_each_word_is_written_as_the_equations_say():
    torch.manual_seed(0)
    batch, words, channels, dimensions = 2, 3, 4, 5
    given, mean = torch.randn(batch, dimensions, words).double(), torch.randn(batch, channels).double()
    shapes = MemoryWeights(
        (dimensions,),
        (channels,),
        (2 * channels, dimensions),
        (2 * channels,),
        (2 * channels, channels),
        (2 * channels,),
        (channels, 2 * channels),
        (channels,),
        (channels, 2 * channels),
        (channels,),
    )
    w = MemoryWeights(*(torch.randn(*shape).double() for shape in shapes))
    key, value = memory_write(given, mean, w)
    assert key.shape == value.shape == (batch, channels, words)
    for b in range(batch):
        image = (w.image_weight @ mean[b] + w.image_bias).clamp(min=0)
        for t in range(words):
            word = given[b, :, t]
            gate = 1 / (1 + (-(w.gate_word @ word + w.gate_image @ mean[b])).exp())
            memory = gate * (w.word_weight @ word + w.word_bias).clamp(min=0) + (1 - gate) * image
            torch.testing.assert_close(key[b, :, t], (w.key_weight @ memory + w.key_bias).clamp(min=0))
            torch.testing.assert_close(value[b, :, t], (w.value_weight @ memory + w.value_bias).clamp(min=0))
