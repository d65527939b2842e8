"""Others' code around our models: PyTorch's SyncBatchNorm, wrappers around a step's models, padding that holds NaN."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel

from dmgan_fast import functional
from dmgan_fast.errors import InputError
from dmgan_fast.modules import Discriminator, DiscriminatorConfig, Generator, ImageEncoder, ImageEncoderConfig, fold
from dmgan_fast.runs.config import StepConfig
from dmgan_fast.training.step import TrainStep
from tests.modules.others import CONFIG, inputs


@pytest.mark.parametrize(
    "make",
    [
        lambda: Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=8)),
        lambda: Discriminator(
            DiscriminatorConfig(
                image_size=64, base_channels=2, sentence_channels=8, spectral_norm="none", batch_norm=True
            )
        ),
        lambda: ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, image_size=32, base_channels=2)),
    ],
    ids=["discriminator", "AttnGAN's discriminator", "image encoder"],
)
def test_converted_models_with_plain_norms_judge_the_same(make):
    torch.manual_seed(0)
    model = make().eval()
    images = torch.rand(2, 3, 64, 64)
    before = model(images)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    torch.testing.assert_close(converted(images), before)
    if isinstance(converted, ImageEncoder):
        torch.testing.assert_close(fold(converted)(images), before, rtol=1e-4, atol=1e-5)


def discriminators():
    return [
        Discriminator(DiscriminatorConfig(image_size=side, base_channels=2, sentence_channels=8)) for side in (64, 128)
    ]


def test_a_step_over_wrapped_models_says_which_and_what_to_do(alone):
    from torch.nn.parallel import DistributedDataParallel

    config = StepConfig(damsm_weight=0.0)
    with pytest.raises(InputError, match=r"generator is wrapped in DistributedDataParallel.*generator\.module"):
        TrainStep(DistributedDataParallel(Generator(CONFIG)), discriminators(), None, config)
    first, second = discriminators()
    with pytest.raises(
        InputError, match=r"discriminators\[1\] is wrapped in DataParallel.*shares gradients and statistics"
    ):
        TrainStep(Generator(CONFIG), [first, DataParallel(second)], None, config)
    with pytest.raises(InputError, match=r"generator is wrapped by torch\.compile.*generator\.compile\(\) in place"):
        TrainStep(torch.compile(Generator(CONFIG)), discriminators(), None, config)
    compiled = Generator(CONFIG)
    compiled.compile()
    TrainStep(compiled, discriminators(), None, config)


# -------------------------------------------------------------------------------------------------------------- padding


BACKENDS = ("reference", "cpu")


def spoiled(tensor, mask):
    """NaN and infinity where the mask is."""
    bad = torch.full_like(tensor, torch.nan)
    bad[..., ::2] = torch.inf
    return torch.where(mask, bad, tensor)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gate", [True, False])
def test_memory_read_spreads_nothing_of_padded_words(backend, gate):
    torch.manual_seed(0)
    h, key, value = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 5), torch.randn(3, 8, 5)
    mask = inputs()["padding_mask"]
    gates = (torch.randn(16), torch.zeros(1)) if gate else (None, None)
    found = []
    for k, v in ((key, value), (spoiled(key, mask[:, None]), spoiled(value, mask[:, None]))):
        leaves = [x.clone().requires_grad_() for x in (h, k, v)]
        read, attention = functional.memory_read(*leaves, *gates, mask, return_attention=True, backend=backend)
        read.square().sum().backward()
        found.append([read, attention, *(x.grad for x in leaves)])
    for clean, dirty in zip(*found, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("backend", BACKENDS)
def test_words_similarity_spreads_nothing_of_padded_words(backend):
    torch.manual_seed(0)
    regions, words, lengths = torch.randn(3, 8, 3, 3), torch.randn(3, 8, 5), torch.tensor([5, 2, 3])
    mask = inputs()["padding_mask"][:, None]
    found = []
    for given in (words, spoiled(words, mask)):
        leaves = [regions.clone().requires_grad_(), given.clone().requires_grad_()]
        scores = functional.words_similarity(*leaves, lengths, gamma1=4.0, gamma2=5.0, backend=backend)
        scores.square().sum().backward()
        found.append([scores, *(x.grad for x in leaves)])
    for clean, dirty in zip(*found, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_generator_learns_nothing_from_padded_words(monkeypatch, backend):
    monkeypatch.setenv("DMGAN_FAST_BACKEND", backend)
    torch.manual_seed(0)
    model, given = Generator(CONFIG), inputs()
    found = []
    for words in (given["words"], spoiled(given["words"], given["padding_mask"][:, None])):
        model.zero_grad()
        out = model(**given | {"words": words})
        sum(image.square().sum() for image in out.images).backward()
        found.append([*out.images, *(parameter.grad.clone() for parameter in model.parameters())])
    for clean, dirty in zip(*found, strict=True):
        assert torch.equal(clean, dirty)
