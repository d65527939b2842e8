"""Layouts of feature maps on CPUs."""

import pytest
import torch

from dmgan_fast.aten.layout import laid_out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.channels_last, torch.contiguous_format])
def test_a_map_in_the_other_layout_holds_the_same_numbers_and_one_in_this_layout_is_itself(wanted, dtype):
    other = {torch.channels_last: torch.contiguous_format, torch.contiguous_format: torch.channels_last}[wanted]
    x = torch.randn(3, 5, 7, 9).to(dtype).contiguous(memory_format=other)
    found = laid_out(x, wanted)
    assert found.is_contiguous(memory_format=wanted)
    assert not found.is_contiguous(memory_format=other)
    assert torch.equal(found, x)
    assert laid_out(found, wanted) is found


def test_maps_on_other_devices_stay_as_they_are():
    x = torch.empty(2, 3, 4, 5, device="meta")
    assert laid_out(x, torch.channels_last) is x
