"""conv3x3 as a sum over pixels."""

import torch

from dmgan_fast.reference.conv3x3 import conv3x3


def test_each_result_is_the_sum_over_its_neighbours_with_zeros_outside():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((2, 3, 4, 5), (6, 3, 3, 3), (6,))
    )
    expected = bias[:, None, None].repeat(2, 1, 4, 5)
    for row in range(4):
        for column in range(5):
            for i in range(3):
                for j in range(3):
                    r, c = row + i - 1, column + j - 1
                    if 0 <= r < 4 and 0 <= c < 5:
                        expected[:, :, row, column] += x[:, :, r, c] @ weight[:, :, i, j].t()
    torch.testing.assert_close(conv3x3(x, weight, bias), expected)
    torch.testing.assert_close(conv3x3(x, weight), expected - bias[:, None, None])
