"""The generator: refinements, padding, randomness, bad input."""

import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.modules import Generator, GeneratorConfig
from tests.modules.small import SMALL, inputs


@pytest.mark.parametrize("sides", [(64,), (64, 128), (64, 128, 256, 512)])
def test_any_number_of_refinements(sides):
    generator = Generator(GeneratorConfig(image_sizes=sides, **SMALL)).eval()
    with torch.no_grad():
        out = generator(**inputs(), return_attention=True)
    assert [tuple(image.shape) for image in out.images] == [(3, 3, side, side) for side in sides]
    assert [tuple(a.shape) for a in out.attention] == [(3, 7, side, side) for side in sides[:-1]]
    assert [tuple(g.shape) for g in out.response_gates] == [(3, 1, side, side) for side in sides[:-1]]
    for attention in out.attention:
        assert torch.allclose(attention.sum(1), torch.ones(()), atol=1e-5)
        assert attention[1, 2:].abs().max() == 0  # words beyond the second caption's length


def test_samples_never_see_padding_in_paper_mode():
    """A caption's pictures are the same whatever stands in its padding and whoever shares its batch."""
    generator = Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL)).eval().double()
    batch = {k: v.double() if v.is_floating_point() else v for k, v in inputs().items()}
    with torch.no_grad():
        whole = generator(**batch).images[-1]
        spoiled = dict(batch, words=batch["words"].masked_fill(batch["padding_mask"][:, None], 1e3))
        assert torch.equal(generator(**spoiled).images[-1], whole)
        one = {key: value[1:2] for key, value in batch.items()}
        one |= {"words": one["words"][..., :2], "padding_mask": one["padding_mask"][:, :2]}
        alone = generator(**one).images[-1]
    assert (alone - whole[1:2]).abs().max() < 1e-12


def test_official_mode_lets_masks_cross_samples():
    batch = inputs()
    paper = Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL)).eval()
    official = Generator(GeneratorConfig(image_sizes=(64, 128), mask_mode="official", **SMALL)).eval()
    official.load_state_dict(paper.state_dict())
    with torch.no_grad():
        ours, theirs = paper(**batch, return_attention=True), official(**batch, return_attention=True)
    assert torch.equal(ours.images[0], theirs.images[0])
    rows = theirs.attention[0].flatten(2)  # row b*N + n takes mask row (b*N + n) mod B
    n = torch.arange(rows.shape[2])
    for b in range(3):
        masked_by = (b * rows.shape[2] + n) % 3
        expected = batch["padding_mask"][masked_by].T
        assert torch.equal(rows[b] == 0, expected)


def test_eps_and_global_seed_decide_the_picture():
    generator = Generator(GeneratorConfig(image_sizes=(64,), **SMALL)).eval()
    batch = inputs()
    free = {key: value for key, value in batch.items() if key != "eps"}
    with torch.no_grad():
        assert torch.equal(generator(**batch).images[0], generator(**batch).images[0])
        torch.manual_seed(5)
        first = generator(**free).images[0]
        torch.manual_seed(5)
        assert torch.equal(generator(**free).images[0], first)
        assert not torch.equal(generator(**free).images[0], first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": torch.zeros(3, 9)}, r"noise must be \[3, 10\], got \[3, 9\]"),
        ({"sentence": torch.zeros(2, 16)}, r"sentence must be \[3, 16\], got \[2, 16\]"),
        ({"words": torch.zeros(3, 15, 7)}, r"words must be \[3, 16, T >= 1\], got \[3, 15, 7\]"),
        ({"words": torch.zeros(3, 16, 0)}, "T >= 1"),
        ({"padding_mask": torch.zeros(3, 7)}, r"padding_mask must be bool \[3, 7\], got torch.float32"),
        ({"padding_mask": torch.zeros(3, 6, dtype=torch.bool)}, r"got torch.bool \[3, 6\]"),
        ({"eps": torch.zeros(3, 1)}, r"eps must be \[3, 12\]"),
        (
            {"words": torch.zeros(3, 16, 7, dtype=torch.float64)},
            "words is torch.float64, the weights are torch.float32",
        ),
        ({"words": torch.zeros(3, 16, 7, device="meta")}, "words is on meta, the weights are on cpu"),
    ],
)
def test_generator_refuses_bad_input(change, message):
    with pytest.raises(InputError, match=message):
        Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL))(**inputs() | change)


def test_training_with_a_batch_of_one_is_refused_and_evaluation_is_not():
    generator = Generator(GeneratorConfig(image_sizes=(64,), **SMALL))
    batch = {key: value[:1] for key, value in inputs().items()}
    with pytest.raises(InputError, match="a batch of one has no batch statistics"):
        generator(**batch)
    assert generator.eval()(**batch).images[0].shape == (1, 3, 64, 64)
