"""Which kernel runs a convolution."""

import pytest
import torch

from dmgan_fast.aten import convolutions


def test_a_weight_of_millions_of_elements_is_a_matrix():
    head = torch.empty(1024, 512, 4, 4)
    assert convolutions.runs_as_matrix("conv4x4_stride2", 4 * 4 * 4, head)
    assert not convolutions.runs_as_matrix("conv4x4_stride2", 4 * 8 * 8, head[:512, :256])


@pytest.mark.parametrize("level", convolutions.CROSSOVERS)
@pytest.mark.parametrize("op", ["conv3x3", "conv4x4_stride2", "upsample_conv3x3"])
def test_each_direction_takes_the_faster_kernel(op, level):
    rule, upsamples = convolutions.CROSSOVERS[level][op], op == "upsample_conv3x3"
    assert rule.runs_forward(1 << 20, 64)
    assert rule.runs_input(1 << 20)
    assert rule.runs_forward(16, 64) == rule.runs_input(16) == upsamples
    assert rule.runs_weight(1 << 20, 64, 64)
    assert rule.runs_forward(1 << 20, 3) == upsamples, "large results of few inputs are PyTorch's"
    assert rule.runs_weight(1 << 20, 3, 64) == (upsamples and level == "avx512")
    assert rule.runs_weight(1 << 20, 64, 3) == (op == "conv3x3" or (op, level) == ("conv4x4_stride2", "avx512"))
    assert not rule.runs_weight(1, 64, 3)


@pytest.mark.parametrize("level", ["sse2", "neon"])
def test_narrower_vectors_take_weights_of_few_channels_again(level):
    for op in ("conv4x4_stride2", "upsample_conv3x3"):
        inputs, outputs = (64, 3) if op == "conv4x4_stride2" else (3, 64)
        assert convolutions.rule_of(op, level).runs_weight(1 << 20, inputs, outputs)
        assert not convolutions.rule_of(op, "avx2").runs_weight(1 << 20, inputs, outputs)


def test_the_rule_is_that_of_the_level_in_use(monkeypatch):
    lower = {op: rule._replace(pixels=7) for op, rule in convolutions.CROSSOVERS["avx2"].items()}
    monkeypatch.setitem(convolutions.CROSSOVERS, "avx2", lower)
    for level, pixels in {"avx512": 1024, "avx2": 7, "sse2": 7, "neon": 7}.items():
        monkeypatch.setattr(convolutions.native, "cpu_level", lambda level=level: level)
        convolutions.crossover.cache_clear()
        assert convolutions.crossover("conv3x3").pixels == pixels
    convolutions.crossover.cache_clear()
