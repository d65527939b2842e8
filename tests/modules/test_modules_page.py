"""docs/modules.md has every module, and the modules keep the conventions of ``nn.Module``; its examples: tests/docs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dmgan_fast.errors import InputError
from dmgan_fast.losses import SentenceLoss, WordsLoss
from dmgan_fast.modules import (
    BatchNormGLU,
    BatchNormSkip,
    DynamicMemory,
    ResidualBlock,
    SpectralNormConv2d,
    UpBlock,
    WordAttention,
)

PAGE = Path(__file__).parents[2] / "docs" / "modules.md"
MODULES = {
    "BatchNormGLU": lambda **kind: BatchNormGLU(8, **kind),
    "BatchNormSkip": lambda **kind: BatchNormSkip(4, **kind),
    "UpBlock": lambda **kind: UpBlock(4, 2, **kind),
    "ResidualBlock": lambda **kind: ResidualBlock(4, **kind),
    "DynamicMemory": lambda **kind: DynamicMemory(4, 6, **kind),
    "WordAttention": lambda **kind: WordAttention(4, 6, **kind),
    "SpectralNormConv2d": lambda **kind: SpectralNormConv2d(3, 4, 3, padding=1, **kind),
}


def test_the_page_has_every_module():
    for name in (*MODULES, "WordsLoss", "SentenceLoss"):
        assert f"`{name}(" in PAGE.read_text(), name


@pytest.mark.parametrize("name", MODULES)
def test_tensors_are_made_where_and_as_asked(name):
    module = MODULES[name](device="meta", dtype=torch.float64)
    tensors = list(module.state_dict().values())
    assert tensors
    assert {t.device.type for t in tensors} == {"meta"}
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.float64}


@pytest.mark.parametrize("name", MODULES)
def test_reset_parameters_starts_a_module_again(name):
    torch.manual_seed(0)
    module = MODULES[name]()
    with torch.no_grad():
        for tensor in (t for t in module.state_dict().values() if t.is_floating_point()):
            tensor.fill_(7.0)
    module.reset_parameters()
    assert not any((t == 7).all() for t in module.state_dict().values() if t.is_floating_point())


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (DynamicMemory(4, 6), "DynamicMemory(channels=4, word_channels=6, mask_mode='paper')"),
        (DynamicMemory(4, 6, response_gate=False), "mask_mode='paper', response_gate=False)"),
        (WordAttention(4, 6, mask_mode="official"), "WordAttention(channels=4, word_channels=6, mask_mode='official')"),
        (SpectralNormConv2d(3, 4, 4, stride=2, mode="official"), "stride=(2, 2), mode='official')"),
        (BatchNormGLU(8), "BatchNormGLU(8, eps=1e-05"),
        (WordsLoss(gamma2=3.0), "WordsLoss(gamma1=4.0, gamma2=3.0, gamma3=10.0)"),
        (SentenceLoss(), "SentenceLoss(gamma3=10.0)"),
    ],
)
def test_modules_say_what_they_are(module, text):
    assert text in repr(module)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DynamicMemory(4, 6, mask_mode="own"),
        lambda: WordAttention(4, 6, mask_mode="own"),
        lambda: SpectralNormConv2d(3, 4, 3, mode="own"),
    ],
)
def test_an_unknown_mode_is_refused(make):
    with pytest.raises(InputError, match=r"mode must be one of paper, official.*got 'own'"):
        make()


def test_modules_learn_in_a_model_of_ones_own():
    torch.manual_seed(0)
    model = nn.Sequential(UpBlock(4, 4), ResidualBlock(4), SpectralNormConv2d(4, 1, 3, padding=1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    x, target = torch.randn(4, 4, 4, 4), torch.randn(4, 1, 8, 8)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
