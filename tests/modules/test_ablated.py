"""Generators with parts taken away: what is left computes its formula, and what was taken away has no influence."""

import pytest
import torch

from dmgan_fast.modules import Generator, GeneratorConfig, generate_in_tiles

SMALL = {"image_sizes": (64, 128), "base_channels": 4, "word_channels": 8, "condition_channels": 4, "noise_channels": 4}
TEXTS = ("both", "words", "sentence", "none")


def draw(model, **changes):
    random = torch.Generator().manual_seed(1)
    sizes = {"noise": (2, 4), "sentence": (2, 8), "words": (2, 8, 5), "eps": (2, 4)}
    given = {name: torch.randn(*size, generator=random, dtype=torch.float64) for name, size in sizes.items()}
    given["padding_mask"] = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        return model(**given | changes).images[-1]


@pytest.mark.parametrize("text", TEXTS)
def test_what_of_the_caption_is_left_out_has_no_influence(text):
    torch.manual_seed(0)
    model = Generator(GeneratorConfig(**SMALL, text=text)).double().eval()
    as_it_is = draw(model)
    others = {
        "words": torch.randn(2, 8, 5, dtype=torch.float64),
        "sentence": torch.randn(2, 8, dtype=torch.float64),
    }
    for name, other in others.items():
        seen = text in ("both", name)
        assert torch.equal(draw(model, **{name: other}), as_it_is) != seen, name


@pytest.mark.parametrize("change", [{"refinement": "attention"}, {"response_gate": False}, {"writing_gate": False}])
@pytest.mark.parametrize("text", TEXTS)
def test_tiles_draw_the_same_pictures(change, text):
    torch.manual_seed(0)
    model = Generator(GeneratorConfig(**SMALL, **change, text=text)).double().eval()
    given = {
        name: torch.randn(1, *size, dtype=torch.float64)
        for name, size in {"noise": (4,), "sentence": (8,), "words": (8, 5), "eps": (4,)}.items()
    }
    with torch.no_grad():
        expected = model(**given).images[-1]
    found = generate_in_tiles(model, given["noise"], given["sentence"], given["words"], None, eps=given["eps"], tile=64)
    assert (found.images[-1] - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("level", ["op", "block", "tile", "stage"])
@pytest.mark.parametrize("change", [{"refinement": "attention"}, {"response_gate": False}])
def test_gradients_survive_rematerialisation(change, level):
    torch.manual_seed(0)
    model = Generator(GeneratorConfig(**SMALL, **change)).double()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = []
    for each in ("none", level):
        model.load_state_dict(state)
        model.set_checkpointing(each)
        model.zero_grad()
        random = torch.Generator().manual_seed(2)
        sizes = ((2, 4), (2, 8), (2, 8, 5))
        noise, sentence, words = (torch.randn(*size, generator=random, dtype=torch.float64) for size in sizes)
        model(noise, sentence, words, None, eps=noise).images[-1].square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1e-9 * one.abs().max()


@pytest.mark.parametrize("change", [{"refinement": "attention"}, {"response_gate": False}, {"writing_gate": False}])
def test_half_precision_draws_finite_pictures(change):
    model = Generator(GeneratorConfig(**SMALL, **change))
    with torch.autocast("cpu", torch.bfloat16):
        images = model(torch.randn(2, 4), torch.randn(2, 8), torch.randn(2, 8, 5), None).images
    assert images[-1].isfinite().all()
