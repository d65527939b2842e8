"""Generators with parts taken away: what is left computes its formula, and what was taken away has no influence."""

import pytest
import torch

from dmgan_fast.modules import DynamicMemory, Generator, GeneratorConfig, draw_in_tiles

SMALL = {"image_sizes": (64, 128), "base_channels": 4, "word_channels": 8, "condition_channels": 4, "noise_channels": 4}
TEXTS = ("both", "words", "sentence", "none")


def plain_memory(memory, h, words, mask):
    """Paper, section 3.1, a word and a pixel at a time would be the same."""
    w = {name: p.detach() for name, p in memory.named_parameters()}
    mean = h.mean((2, 3))
    m = torch.relu(torch.einsum("kd,bdt->bkt", w["word_weight"], words) + w["word_bias"][:, None])
    if "gate_word" in w:
        gate = torch.sigmoid(torch.einsum("d,bdt->bt", w["gate_word"], words) + (mean @ w["gate_image"])[:, None])[
            :, None
        ]
        m = gate * m + (1 - gate) * torch.relu(mean @ w["image_weight"].T + w["image_bias"])[:, :, None]
    key, value = (
        torch.relu(torch.einsum("ck,bkt->bct", w[f"{n}_weight"], m) + w[f"{n}_bias"][:, None]) for n in ("key", "value")
    )
    scores = torch.einsum("bcn,bct->bnt", h.flatten(2), key).masked_fill(mask[:, None], -torch.inf)
    read = torch.einsum("bnt,bct->bcn", scores.softmax(2), value).view_as(h)
    both = torch.cat((h, read), 1)
    if "response_weight" not in w:
        return both
    gate = torch.sigmoid(torch.einsum("c,bchw->bhw", w["response_weight"], both) + w["response_bias"])[:, None]
    return gate * read + (1 - gate) * h


@pytest.mark.parametrize(("writing", "response"), [(True, True), (True, False), (False, True), (False, False)])
def test_memory_without_gates_computes_its_formula(writing, response):
    torch.manual_seed(0)
    memory = DynamicMemory(4, 8, writing_gate=writing, response_gate=response).double()
    h, words = torch.randn(2, 4, 6, 5, dtype=torch.float64), torch.randn(2, 8, 3, dtype=torch.float64)
    mask = torch.tensor([[False, False, False], [False, False, True]])
    found, attention, gate = memory(h, words, mask, return_attention=True)
    expected = plain_memory(memory, h, words, mask)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert attention.shape == (2, 3, 6, 5)
    assert (gate is None) != response
    found.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in memory.parameters())


def test_writing_gates_are_those_that_write():
    torch.manual_seed(0)
    memory = DynamicMemory(4, 8).double()
    words, mean = torch.randn(2, 8, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    expected = torch.sigmoid(torch.einsum("d,bdt->bt", memory.gate_word, words) + (mean @ memory.gate_image)[:, None])
    assert torch.allclose(memory.writing_gates(words, mean), expected, rtol=1e-12)


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
    found = draw_in_tiles(model, given["noise"], given["sentence"], given["words"], None, eps=given["eps"], tile=64)
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
