"""Folded models are the same functions, a generator within the error budget of float32."""

import copy

import pytest
import torch

from dmgan_fast.modules import Generator, GeneratorConfig, ImageEncoder, ImageEncoderConfig, fold

BUDGET = 2  # times the error of the unfolded generator


def generator(blocks=2, sides=(64, 128), **parts):
    torch.manual_seed(0)
    model = Generator(
        GeneratorConfig(
            image_sizes=sides,
            base_channels=8,
            word_channels=16,
            condition_channels=4,
            noise_channels=4,
            residual_blocks=blocks,
            **parts,
        )
    )
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.3)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(std=0.3)
    return model.eval()


def inputs(dtype=torch.float32, batch=3):
    draw = torch.Generator().manual_seed(1)
    shapes = {"noise": (batch, 4), "sentence": (batch, 16), "words": (batch, 16, 5), "eps": (batch, 4)}
    tensors = {k: torch.randn(s, generator=draw).to(dtype) for k, s in shapes.items()}
    return tensors | {"padding_mask": torch.arange(5) >= torch.tensor([5, 3, 1])[:batch, None]}


@pytest.mark.parametrize(
    ("blocks", "parts"), [(1, {}), (3, {}), (1, {"response_gate": False}), (1, {"refinement": "attention"})]
)
@torch.no_grad()
def test_folding_is_exact_in_float64(blocks, parts):
    model = generator(blocks, **parts).double()
    expected = model(**inputs(torch.float64), return_attention=True)
    found = fold(model)(**inputs(torch.float64), return_attention=True)
    for name in ("images", "attention", "response_gates"):
        for ours, true in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert (ours - true).abs().max() <= 1e-12
    assert len(found.attention) == 1


@torch.no_grad()
def test_float32_stays_within_the_error_budget():
    model = generator(sides=(64, 128, 256))
    truth = copy.deepcopy(model).double()(**inputs(torch.float64)).images
    eager, folded = model(**inputs()).images, fold(model)(**inputs()).images

    def error(images):  # over all resolutions: one resolution's error is a matter of luck
        return sum((a - b).square().mean() / b.square().mean() for a, b in zip(images, truth, strict=True)).sqrt()

    assert error(folded) <= BUDGET * error(eager)


def test_a_folded_generator_shares_nothing_and_has_no_batch_norm():
    model = generator()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model)
    owned = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert not any(p.requires_grad or p.untyped_storage().data_ptr() in owned for p in folded.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not folded.training


@pytest.mark.parametrize(
    "config", [ImageEncoderConfig(kind="compact", channels=8, base_channels=4), ImageEncoderConfig()]
)
def test_a_folded_encoder_is_the_same_function_and_keeps_less(config):
    torch.manual_seed(0)
    encoder = ImageEncoder(config).double().eval().requires_grad_(False)
    for norm in (m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(std=0.1)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    folded, images = fold(encoder), torch.rand(1, 3, encoder.input_size, encoder.input_size, dtype=torch.float64)
    results, kept = [], []
    for model in (encoder, folded):
        leaf, storages = images.clone().requires_grad_(), {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            regions, code = model(leaf)
        for parameter in model.parameters():
            storages.pop(parameter.untyped_storage().data_ptr(), None)
        kept.append(sum(storages.values()))
        results.append((regions, code, *torch.autograd.grad(regions.square().mean() + code.square().mean(), leaf)))
    for ours, true in zip(results[1], results[0], strict=True):
        assert (ours - true).abs().max() <= 1e-10 * true.abs().max()
    assert kept[1] < 0.65 * kept[0]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in before.items())
