"""Images generated window by window are the images generated at once."""

import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.modules import Generator, GeneratorConfig, generate_in_tiles

SIDES = (64, 128, 256)


def generator(blocks=2, sides=SIDES):
    torch.manual_seed(0)
    config = GeneratorConfig(
        image_sizes=sides,
        base_channels=4,
        word_channels=8,
        condition_channels=4,
        noise_channels=4,
        residual_blocks=blocks,
    )
    model = Generator(config).double()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.3)
        norm.running_var.uniform_(0.5, 2)
        norm.bias.data.normal_()
    return model.eval()


def inputs():
    draw = torch.Generator().manual_seed(1)
    shapes = {"noise": (1, 4), "sentence": (1, 8), "words": (1, 8, 5), "eps": (1, 4)}
    mask = torch.tensor([[False, False, False, True, True]])
    return {k: torch.randn(s, generator=draw, dtype=torch.float64) for k, s in shapes.items()} | {"padding_mask": mask}


@pytest.mark.parametrize(("tile", "kept"), [(64, 1 << 30), (64, 0), (100, 0), (77, 1 << 30), (512, 0)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_every_pixel_is_the_same(tile, kept, blocks):
    model = generator(blocks)
    with torch.no_grad():
        expected = model(**inputs()).images
    found = generate_in_tiles(model, **inputs(), tile=tile, kept=kept).images
    for ours, true in zip(found, expected, strict=True):
        assert ours.shape == true.shape
        assert (ours - true).abs().max() <= 1e-12


def peak(model, tile):
    """Bytes at the peak of what is allocated while generating, without the images themselves."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        images = generate_in_tiles(model, **inputs(), tile=tile, kept=0).images
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most - sum(image.nbytes for image in images)


def test_memory_does_not_grow_with_the_side():
    small, large = (peak(generator(1, sides), 64) for sides in ((64, 128, 256), (64, 128, 256, 512)))
    assert large <= 1.25 * small


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 63}, "tile must be at least 64, which the halos need, got 63"),
        ({"noise": torch.zeros(2, 4, dtype=torch.float64)}, "one image at a time, got a batch of 2"),
        ({"words": torch.zeros(1, 7, 5, dtype=torch.float64)}, r"words must be \[1, 8, T >= 1\]"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        generate_in_tiles(generator(1), **(inputs() | change))


def test_training_mode_is_refused():
    with pytest.raises(InputError, match="must be in evaluation mode"):
        generate_in_tiles(generator(1).train(), **inputs())
