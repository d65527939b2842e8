"""A snapshot is the state of its moment, in tensors of its own."""

from collections import namedtuple

import pytest
import torch

from dmgan_fast.runs.snapshot import bytes_of, is_sharded, snapshot, tensors

Pair = namedtuple("Pair", "first second")


def test_a_snapshot_keeps_values_types_and_structure_and_shares_nothing():
    state = {
        "plain": torch.arange(6.0).view(2, 3),
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "transposed": torch.arange(6).view(2, 3).t(),
        "channels last": torch.randn(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "leaf": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.empty(0, 3),
        "list": [torch.tensor(1), (torch.tensor(2), "text", None, 1.5)],
        "pair": Pair(torch.zeros(1), 2),
        7: {"deep": torch.tensor(True)},
    }
    copied = snapshot(state)
    assert list(copied) == list(state)
    for one, other in zip(tensors(state), tensors(copied), strict=True):
        assert (one.dtype, one.stride()) == (other.dtype, other.stride())
        assert torch.equal(one, other)
        assert not other.requires_grad
        assert one.numel() == 0 or one.data_ptr() != other.data_ptr()
    assert copied["list"][1][1:] == ("text", None, 1.5)
    assert isinstance(copied["pair"], Pair)
    state["list"].append(1)
    assert len(copied["list"]) == 2


def test_bytes_are_those_of_the_tensors():
    assert bytes_of({"a": torch.zeros(10), "b": [torch.zeros(3, dtype=torch.int8), "text"], "c": 5}) == 43
    assert not is_sharded({"a": torch.zeros(10)})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_from_a_gpu_the_bits_are_those_of_the_moment_though_the_gpu_goes_on():
    value = torch.randn(1 << 22, device="cuda")
    expected = value.cpu()
    copied = snapshot([value])[0]
    value.zero_()
    assert copied.device.type == "cpu"
    assert torch.equal(copied, expected)
