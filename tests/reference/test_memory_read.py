"""memory_read: what the gate does, and captions of padding alone."""

import torch

from dmgan_fast.reference.memory_read import memory_read


def inputs():
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 4, 3, 5), (2, 4, 6), (2, 4, 6), (8,))
    return [torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes]


def test_an_open_gate_gives_what_was_read_and_a_closed_one_the_image():
    h, key, value, weight = inputs()
    read, attention, none = memory_read(h, key, value, None, None)
    assert none is None
    torch.testing.assert_close(read.flatten(2), value @ attention.flatten(2))
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 3, 5).double())
    for bias, expected in ((1e4, read), (-1e4, h)):
        found, _, gate = memory_read(h, key, value, weight, torch.tensor([bias]).double())
        torch.testing.assert_close(found, expected)
        assert gate.shape == (2, 1, 3, 5)


def test_a_caption_of_padding_reads_zero_even_if_it_holds_nan():
    h, key, value, _ = inputs()
    mask = torch.tensor([[False] * 6, [True] * 6])
    expected, *_ = memory_read(h, key, value, None, None)
    key[1] = value[1] = torch.nan
    read, attention, _ = memory_read(h, key, value, None, None, mask)
    assert (read[1] == 0).all()
    assert (attention[1] == 0).all()
    torch.testing.assert_close(read[0], expected[0])


def test_the_official_masks_are_those_of_the_rows_in_turn():
    h, key, value, _ = inputs()
    mask = torch.tensor([[False] * 6, [False] * 2 + [True] * 4])
    _, attention, _ = memory_read(h, key, value, None, None, mask, "official")
    masked = (attention[:, 2:] == 0).all(1).flatten()
    assert masked.tolist() == [row % 2 == 1 for row in range(30)]
