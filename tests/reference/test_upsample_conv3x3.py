"""upsample_conv3x3 as a sum over copies of pixels."""

import torch

from dmgan_fast.reference.upsample_conv3x3 import upsample_conv3x3


def test_each_result_is_the_sum_over_copies_of_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((2, 3, 3, 4), (5, 3, 3, 3)))
    expected = torch.zeros(2, 5, 6, 8).double()
    for row in range(6):
        for column in range(8):
            for i in range(3):
                for j in range(3):
                    r, c = row + i - 1, column + j - 1
                    if 0 <= r < 6 and 0 <= c < 8:
                        expected[:, :, row, column] += x[:, :, r // 2, c // 2] @ weight[:, :, i, j].t()
    torch.testing.assert_close(upsample_conv3x3(x, weight), expected)
