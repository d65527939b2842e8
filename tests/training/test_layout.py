"""Channels-last in sixteen bits: nothing changes its layout on the way, and a step learns the same."""

import copy
import functools

import pytest
import torch
from torchvision.models import inception

from dmgan_fast.devices import planned_for
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.modules import ImageEncoder, ImageEncoderConfig, fold
from dmgan_fast.modules.blocks import UpBlock
from dmgan_fast.runs.config import StepConfig, TrainConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training import layout, step
from dmgan_fast.training.planning import measure
from dmgan_fast.training.step import TrainStep
from tests.metering.test_launches import second_step
from tests.training.test_step import batch_of, models

SIDES = (64, 128)


def on_a_gpu(monkeypatch):
    """Steps on a CPU are laid out, and take real and generated images together, as on a GPU."""
    monkeypatch.setattr(step, "layout_of", lambda device, half: torch.channels_last)


NARROW = {"base_channels": 8, "word_channels": 16, "condition_channels": 8, "noise_channels": 8}


@pytest.mark.parametrize("refinement", ["memory", "attention"])
def test_no_layout_changes_within_a_step_but_where_maps_begin_and_end(refinement):
    generator = NARROW | {"image_sizes": list(SIDES), "refinement": refinement}
    found = second_step("bf16", 4, generator=generator, discriminator_channels=8)
    assert not +found.layouts_changed, "cuDNN would change it inside"
    steps = 2  # that were counted
    assert {where: count / steps for where, count in (+found.relaid).items()} == {
        "draw: clone": 1,  # the first features
        "generator: clone": 1,  # the gradient of the first features
        "discriminators: clone": 1,  # sentences beside features
        **{f"discriminator_{side}: _to_copy": 1 for side in SIDES},  # real images, with their type
        "damsm: _to_copy": 2,  # regions to the words loss, and their gradient
    }


def test_a_step_in_channels_last_learns_what_one_in_nchw_does(monkeypatch):
    batch, noise = batch_of(0, SIDES)
    taken = {}
    for name in ("NCHW", "channels-last"):
        if name == "channels-last":
            on_a_gpu(monkeypatch)
        generator, discriminators, encoder = models(SIDES, mode="paper")
        own = TrainStep(generator, discriminators, encoder, StepConfig(memory=MemoryPolicy(together=name != "NCHW")))
        losses = [own(batch, **noise) for _ in range(3)]
        taken[name] = losses, [*generator.state_dict().values(), *discriminators[1].state_dict().values()]
    for theirs, ours in zip(taken["NCHW"][0], taken["channels-last"][0], strict=True):
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-12, msg=name)
    for theirs, ours in zip(taken["NCHW"][1], taken["channels-last"][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("policy", [MemoryPolicy(together=True), MemoryPolicy(checkpointing="block", micro_batch=1)])
def test_losses_in_sixteen_bits_are_as_near_to_float64_in_channels_last_as_in_nchw(policy, monkeypatch):
    batch, noise = batch_of(0, SIDES)
    truth = TrainStep(*models(SIDES, mode="paper"))(batch, **noise)
    batch, noise = batch_of(0, SIDES, dtype=torch.float32)
    apart = {}
    for where in ("NCHW", "channels-last"):
        if where == "channels-last":
            on_a_gpu(monkeypatch)
        parts = models(SIDES, mode="paper", dtype=torch.float32)
        found = TrainStep(*parts, StepConfig(precision="bf16", memory=policy))(batch, **noise)
        apart[where] = torch.stack(
            [(found[name] - value) / value.abs().clamp(min=0.1) for name, value in truth.items()]
        )
    assert apart["channels-last"].norm() <= 1.5 * apart["NCHW"].norm()
    for parameter in (*parts[0].parameters(), *parts[1][0].parameters()):
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()


def test_laying_out_keeps_parameters_and_leaves_up_blocks_as_they_are():
    generator, discriminators, _ = models(SIDES, mode="paper")
    before = {name: (id(p), p.detach().clone()) for name, p in generator.named_parameters()}
    layout.lay_out((generator, *discriminators), torch.channels_last)
    spread = {id(block.conv.weight) for block in generator.modules() if isinstance(block, UpBlock)}
    assert len(spread) == 5
    for name, parameter in generator.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
        if parameter.dim() == 4:
            last = parameter.is_contiguous(memory_format=torch.channels_last)
            assert last != (id(parameter) in spread)


@pytest.mark.parametrize(
    ("device", "half", "expected"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_only_sixteen_bits_on_a_gpu_are_laid_out(device, half, expected):
    assert (layout.layout_of(device, half) is torch.channels_last) == expected


def test_an_encoder_that_is_not_ours_is_left_to_autocast(monkeypatch):
    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Conv2d(3, 8, 8, stride=8)
            self.head = torch.nn.Linear(8, 8)

        def forward(self, images):
            regions = self.inner(images)
            with torch.autocast("cpu", enabled=False):
                return regions, self.head(regions.float().mean((2, 3)))

    on_a_gpu(monkeypatch)
    generator, discriminators, _ = models((64,), mode="paper", dtype=torch.float32)
    own = TrainStep(generator, discriminators, Foreign(), StepConfig(precision="bf16"))
    batch, noise = batch_of(0, (64,), dtype=torch.float32)
    assert all(loss.isfinite() for loss in own(batch, **noise).values())
    assert own._judge is own.image_encoder


def test_a_rounded_encoder_gives_autocasts_bits_and_the_given_one_stays():
    torch.manual_seed(0)
    encoder = fold(ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, image_size=64, base_channels=4)))
    before = copy.deepcopy(encoder.state_dict())
    half = layout.judging(encoder, torch.bfloat16, torch.channels_last)
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in zip(half(images), encoder(images), strict=True):
            assert torch.equal(ours, theirs)
    assert half.region_head.weight.dtype == torch.bfloat16
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype


def test_weights_rounded_together_give_autocasts_bits_and_gradients():
    generator = models(SIDES, mode="paper", dtype=torch.float32)[0]
    batch, noise = batch_of(0, SIDES, dtype=torch.float32)
    inputs = noise["noise"], batch.sentence, batch.words, batch.padding_mask
    found = []
    for make in (generator, functools.partial(layout.with_rounded_weights, generator)):
        with torch.autocast("cpu", torch.bfloat16):
            images = make(*inputs, eps=noise["eps"]).images
        sum(image.float().square().sum() for image in images).backward()
        found.append([*images, *(parameter.grad for parameter in generator.parameters() if parameter.grad is not None)])
        generator.zero_grad()
    assert len(found[0]) == len(found[1])
    for theirs, ours in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert all(parameter.dtype == torch.float32 for parameter in generator.parameters())


def test_regions_and_their_gradient_change_layout_and_type_in_one_pass():
    regions = torch.randn(2, 4, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
    wide = layout.widened(regions)
    assert wide.dtype == torch.float32
    assert wide.is_contiguous()
    assert torch.equal(wide, regions.float())
    gradient = torch.randn(2, 4, 3, 3)
    (found,) = torch.autograd.grad(wide, regions, gradient)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, gradient.bfloat16())


def test_a_convolution_with_its_relu_has_the_result_and_gradient_of_both():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1).requires_grad_(False)
    fused = layout.ConvReLU(conv)
    found, expected = (torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    found.requires_grad_()
    expected.requires_grad_()
    fused(found).square().sum().backward()
    torch.relu(conv(expected)).square().sum().backward()
    assert torch.equal(fused(found), torch.relu(conv(expected)))
    assert torch.equal(found.grad, expected.grad)


def test_inceptions_folded_convolutions_are_joined_with_their_relus():
    class BasicConv2d(torch.nn.Module):
        def __init__(self, bn):
            super().__init__()
            self.conv, self.bn = torch.nn.Conv2d(3, 4, 1), bn

        def forward(self, x):
            return torch.relu(self.bn(self.conv(x)))

    model = torch.nn.Sequential(BasicConv2d(torch.nn.Identity()), BasicConv2d(torch.nn.BatchNorm2d(4))).eval()
    model[1].conv = torch.nn.Conv2d(4, 4, 1)
    half = layout.judging(model, torch.bfloat16, torch.channels_last)
    assert isinstance(half[0], layout.ConvReLU)
    assert type(half[1]).__name__ == "BasicConv2d", "a norm that is not folded stays"
    assert type(model[0]).__name__ == "BasicConv2d", "and the given model as it is"
    x = torch.randn(2, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half(x), model(x))


class Folded(torch.nn.Module):
    """What folding makes of torchvision's convolution with its norm."""

    def __init__(self, *channels, **geometry):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(*channels, **geometry), torch.nn.Identity()

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


Folded.__name__ = "BasicConv2d"
BLOCKS = {"InceptionA": {"pool_features": 2}, "InceptionC": {"channels_7x7": 4}, "InceptionD": {}, "InceptionE": {}}


@pytest.mark.parametrize("kind", BLOCKS)
def test_convolutions_of_one_map_give_its_gradient_in_one_convolution(kind):
    torch.manual_seed(0)
    block = getattr(inception, kind)(6, **BLOCKS[kind], conv_block=Folded).requires_grad_(False)
    judge = layout.judging(block, None, None)
    found, expected = (torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    found.requires_grad_()
    expected.requires_grad_()
    for _ in range(2):  # nothing is left of the first
        ours, theirs = judge(found), block(expected)
        assert torch.equal(ours, theirs)
        found.grad = expected.grad = None
        ours.square().sum().backward()
        theirs.square().sum().backward()
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)
    siblings = layout.SIBLINGS[kind]
    assert {name for name, child in judge.named_children() if isinstance(child, layout.Sibling)} == set(siblings)
    (together,) = {child.together for child in judge.children() if isinstance(child, layout.Sibling)}
    assert together.seen is None
    assert not together.waiting


def test_a_map_that_only_some_of_its_convolutions_saw_is_not_taken_for_the_next():
    torch.manual_seed(0)
    together = layout.ConvReLUs([torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 5, 1)])
    first, second = (layout.Sibling(together, place) for place in (0, 1))
    one, other = torch.randn(2, 1, 3, 4, 4)
    expected = [torch.relu(conv(other)) for conv in together.convs]
    first(one)
    assert torch.equal(second(other), expected[1])
    assert torch.equal(first(other), expected[0])
    first(other)
    assert torch.equal(first(other), expected[0]), "asked again for the same"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_encoder_of_a_gpu_runs_convolutions_and_their_relus_in_one_kernel(precision):
    """Counted on tensors without data, of all of Inception."""
    config = build_config(
        TrainConfig, values={"step": {"precision": precision}, "generator": NARROW | {"image_sizes": [64]}}
    )
    with Dataless(), planned_for("cuda"):
        judge = measure.models_of(config)._judge
    kinds = [type(each).__name__ for each in judge.modules()]
    assert kinds.count("ConvReLU") + kinds.count("Sibling") == 94
    assert kinds.count("ConvReLUs") == 10
    assert "BasicConv2d" not in kinds
