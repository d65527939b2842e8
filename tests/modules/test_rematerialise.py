"""Rematerialisation changes what is kept, and nothing else: results, gradients and buffers are the same bits."""

import copy
from statistics import median

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from dmgan_fast.errors import InputError
from dmgan_fast.modules import Generator, GeneratorConfig
from dmgan_fast.modules.rematerialise import rematerialise
from dmgan_fast.modules.spectral_norm import SpectralNormConv2d
from dmgan_fast.parallel.ending import end_after_gloo

LEVELS = ("op", "block", "tile", "stage")
SIDES = (64, 128)


def generator(levels="none", dtype=torch.float64, **options):
    torch.manual_seed(0)
    config = GeneratorConfig(
        image_sizes=SIDES, base_channels=2, word_channels=8, condition_channels=4, noise_channels=4, residual_blocks=2
    )
    model = Generator(config).to(dtype)
    model.set_checkpointing(levels, **options)
    return model


def inputs(dtype=torch.float64, batch=3, seed=1):
    draw = torch.Generator().manual_seed(seed)
    sizes = {"noise": (batch, 4), "sentence": (batch, 8), "words": (batch, 8, 5)}
    return {name: torch.randn(size, generator=draw, dtype=torch.float64).to(dtype) for name, size in sizes.items()}


def run(model, steps=2, **options):
    """Images, gradients and buffers after some forwards and backwards; the conditioning samples random numbers."""
    torch.manual_seed(7)
    for step in range(steps):
        output = model(**inputs(model.conditioning.projection.weight.dtype, seed=step), **options)
        draw = torch.Generator().manual_seed(2)
        loss = sum((image * torch.randn(image.shape, generator=draw).to(image)).sum() for image in output.images)
        (loss + output.mu.square().sum()).backward()
    maps = [*output.attention, *output.response_gates]
    return [*output.images, *maps], {k: p.grad for k, p in model.named_parameters()}, dict(model.named_buffers())


def assert_same_bits(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(scope="module")
def plain():
    return run(generator())


@pytest.mark.parametrize(
    "levels", [*(level for level in LEVELS if level != "tile"), ("block", "op"), ("stage", "block")]
)
def test_every_level_gives_the_same_bits(levels, plain):
    assert_same_bits(run(generator(levels)), plain)


@pytest.mark.parametrize("rows", [24, 64])
def test_tiles_differ_by_the_order_of_sums_only(rows, plain):
    images, grads, buffers = run(generator("tile", tile_rows=rows))
    for ours, true in zip(images, plain[0], strict=True):
        assert (ours - true).abs().max() <= 1e-12
    for key, true in plain[1].items():
        assert (grads[key] - true).norm() <= 1e-12 * true.norm(), key
    for key, true in plain[2].items():
        assert (buffers[key] - true).double().norm() <= 1e-13 * true.double().norm(), key


@pytest.mark.parametrize("level", LEVELS)
def test_maps_are_still_to_be_had(level):
    found, expected = (run(generator(levels), steps=1, return_attention=True)[0] for levels in (level, "none"))
    assert len(found) == len(expected) == 4
    assert all((a - b).abs().max() <= 1e-12 for a, b in zip(found, expected, strict=True))


@pytest.fixture
def one_thread():
    """As ``make test`` has: with more, sums of few numbers are grouped otherwise, which moves the errors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("level", LEVELS)
def test_in_float32_on_the_kernels_bits_are_kept_too(level, one_thread):
    found, expected = run(generator(level, torch.float32)), run(generator("none", torch.float32))
    if level != "tile":
        return assert_same_bits(found, expected)
    truth = run(generator())[1]
    tiled, whole = (errors_by_module(grads, truth) for grads in (found[1], expected[1]))
    assert median(tiled[module] / whole[module] for module in whole) <= 1.5
    for module in whole:
        assert tiled[module] <= 3 * whole[module] + 1e-6, module


def errors_by_module(grads, truth):
    """Module → the relative error of its parameters' gradients, in the mean square: one bias of two numbers is luck."""
    errors = {}
    for key, true in truth.items():
        errors.setdefault(key.rpartition(".")[0], []).append((grads[key].double() - true).norm() / true.norm())
    return {module: torch.stack(found).square().mean().sqrt() for module, found in errors.items()}


def test_autocast_is_restored():
    models = {levels: generator(levels, torch.float32) for levels in ("none", "block")}
    grads = {}
    for levels, model in models.items():
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**inputs(torch.float32), eps=torch.zeros(3, 4))
        assert output.images[-1].dtype == torch.bfloat16
        loss = sum(image.float().square().sum() for image in output.images)
        wanted = [p for p in model.parameters() if p.requires_grad]
        grads[levels] = torch.autograd.grad(loss, wanted)
    assert all(torch.equal(a, b) for a, b in zip(*grads.values(), strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_compiled_without_graph_breaks(level):
    def compiled(levels):
        model = generator(levels, torch.float32)
        function = torch.compile(model, fullgraph=True, backend="aot_eager")
        output = function(**inputs(torch.float32), eps=torch.zeros(3, 4))
        sum(image.square().sum() for image in output.images).backward()
        return list(output.images), {k: p.grad for k, p in model.named_parameters()}, dict(model.named_buffers())

    found, expected = compiled(level), compiled("none")
    for ours, theirs in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for key, theirs in expected[1].items():
        assert (found[1][key] - theirs).norm() <= 1e-4 * theirs.norm(), key
    for key, theirs in expected[2].items():
        torch.testing.assert_close(found[2][key], theirs, rtol=1e-5, atol=1e-6)


def test_less_is_kept_at_each_level():
    def kept(levels):
        model, storages = generator(levels, torch.float32), {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(**inputs(torch.float32))
        total = sum(storages.values())
        del output
        return total

    everything, op, block, stage = (kept(levels) for levels in ("none", "op", "block", "stage"))
    assert everything > 1.15 * op > 1.5 * block > stage


class Stateful(nn.Module):
    """Everything that a second run could spoil: batch norm, a power iteration, dropout, and an inner region."""

    def __init__(self):
        super().__init__()
        self.conv, self.inner = SpectralNormConv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm, self.cumulative = nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None)
        self.nested = False

    def forward(self, x):
        x = torch.dropout(self.norm(self.conv(x)), 0.5, True)
        return rematerialise(self.deep, x, modules=(self.cumulative,)) if self.nested else self.deep(x)

    def deep(self, x):
        return torch.dropout(self.cumulative(self.inner(x)), 0.5, True).relu()


@pytest.mark.parametrize("nested", [False, True])
def test_norms_power_iterations_and_dropout_are_not_run_twice(nested):
    torch.manual_seed(0)
    model = Stateful().double()
    other = copy.deepcopy(model)
    other.nested = nested
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    results = []
    for module, call in ((model, lambda m, x: m(x)), (other, rematerialise)):
        torch.manual_seed(3)
        leaf = x.clone().requires_grad_()
        for _ in range(3):
            y = call(module, leaf)
            y.square().sum().backward()
        results.append((y, leaf.grad, [p.grad for p in module.parameters()], list(module.buffers()), torch.rand(3)))
    (y, dx, grads, buffers, drawn), (y2, dx2, grads2, buffers2, drawn2) = results
    assert torch.equal(y, y2)
    assert torch.equal(dx, dx2)
    assert torch.equal(drawn, drawn2)
    for ours, theirs in zip((*grads2, *buffers2), (*grads, *buffers), strict=True):
        assert torch.equal(ours, theirs)


def test_a_second_backward_through_a_kept_graph_gives_the_same():
    torch.manual_seed(0)
    model = Stateful().double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    y = rematerialise(model, x)
    before = [b.clone() for b in model.buffers()]
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def worker(rank, file, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    end_after_gloo()
    found = []
    for levels in ("none", "block", "tile"):
        model = generator(levels)
        wrapped = DistributedDataParallel(model)
        output = wrapped(**inputs(seed=rank), eps=torch.zeros(3, 4, dtype=torch.float64))
        sum(image.square().sum() for image in output.images).backward()
        found.append({key: p.grad for key, p in model.named_parameters()})
    torch.save(found, f"{results}{rank}")
    distributed.destroy_process_group()


def test_in_a_data_parallel_wrapper_gradients_are_averaged_as_without(tmp_path):
    multiprocessing.spawn(worker, (tmp_path / "store", tmp_path / "result"), nprocs=2)
    first, second = (torch.load(tmp_path / f"result{rank}") for rank in range(2))
    plain, block, tile = first
    for key, grad in plain.items():
        assert torch.equal(block[key], grad), key
        assert (tile[key] - grad).norm() <= 1e-12 * grad.norm(), key
        assert torch.equal(second[0][key], grad), key


@pytest.mark.parametrize(
    ("levels", "options", "message"),
    [
        ("everything", {}, "levels must be one of none, op, block, tile, stage, or 2 of them, got 'everything'"),
        (("none",), {}, "or 2 of them"),
        ("tile", {"tile_rows": 3}, "tile_rows must be at least 4, got 3"),
    ],
)
def test_bad_choices_are_named_and_change_nothing(levels, options, message):
    model = generator("op")
    with pytest.raises(InputError, match=message):
        model.set_checkpointing(levels, **options)
    assert model.checkpointing == ("op", "op")
