"""conv4x4_stride2 as a sum over pixels."""

import pytest
import torch

from dmgan_fast.reference.conv4x4_stride2 import conv4x4_stride2


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7)])
def test_each_result_is_the_sum_over_its_window_of_every_other_pixel(height, width):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((2, 3, height, width), (6, 3, 4, 4), (6,))
    )
    expected = bias[:, None, None].repeat(2, 1, height // 2, width // 2)
    for row in range(height // 2):
        for column in range(width // 2):
            for i in range(4):
                for j in range(4):
                    r, c = 2 * row + i - 1, 2 * column + j - 1
                    if 0 <= r < height and 0 <= c < width:
                        expected[:, :, row, column] += x[:, :, r, c] @ weight[:, :, i, j].t()
    torch.testing.assert_close(conv4x4_stride2(x, weight, bias), expected)
