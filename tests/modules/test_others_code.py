"""Others' code around our models: PyTorch's SyncBatchNorm, wrappers around a step's models, padding that holds NaN."""

import copy
import os

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DataParallel

from dmgan_fast import functional
from dmgan_fast.errors import InputError
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    fold,
)
from dmgan_fast.modules.blocks import BatchNormGLU, BatchNormSkip, share_batch_statistics
from dmgan_fast.runs.config import StepConfig
from dmgan_fast.training.step import TrainStep

CONFIG = GeneratorConfig(
    image_sizes=(64, 128), base_channels=2, residual_blocks=1, word_channels=8, condition_channels=4, noise_channels=4
)


@pytest.fixture
def alone():
    """A process group of one, as DDP scripts begin with."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    distributed.destroy_process_group()


def inputs(seed=0):
    draw = torch.Generator().manual_seed(seed)
    noise, sentence, eps = (torch.randn(3, size, generator=draw) for size in (4, 8, 4))
    words = torch.randn(3, 8, 5, generator=draw)
    mask = torch.arange(5) >= torch.tensor([5, 2, 3])[:, None]
    return {"noise": noise, "sentence": sentence, "words": words, "padding_mask": mask, "eps": eps}


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("training", [False, True])
def test_convert_sync_batchnorm_leaves_a_generator_that_draws_and_learns_the_same(training):
    torch.manual_seed(0)
    model = Generator(CONFIG).train(training)
    plain = copy.deepcopy(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert {type(norm) for norm in norms(converted)} == {BatchNormGLU, BatchNormSkip}
    assert list(converted.state_dict()) == list(plain.state_dict())
    for each in (converted, plain):
        sum(image.square().sum() for image in each(**inputs()).images).backward()
    for one, other in zip(converted.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    for one, other in zip(converted.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)


def test_converted_norms_share_statistics_as_asked(alone):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Generator(CONFIG))
    assert {norm.sharing for norm in norms(model)} == {distributed.group.WORLD}
    group = distributed.new_group([0])
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Generator(CONFIG), group)
    assert {norm.sharing for norm in norms(model)} == {group}
    share_batch_statistics(model, None)
    assert {norm.sharing for norm in norms(model)} == {None}


def test_norms_converted_before_the_processes_join_share_once_they_have():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Generator(CONFIG))
    assert {norm.sharing for norm in norms(model)} == {None}
    os.environ.pop("MASTER_ADDR", None)
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        assert {norm.sharing for norm in norms(model)} == {distributed.group.WORLD}
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=8)),
        lambda: Discriminator(
            DiscriminatorConfig(
                image_size=64, base_channels=2, sentence_channels=8, spectral_norm="none", batch_norm=True
            )
        ),
        lambda: ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, side=32, base_channels=2)),
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
