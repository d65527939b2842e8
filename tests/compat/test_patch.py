"""Others' models, patched: they compute the same, step after step, on the fused ops, and keep their objects."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import error
from dmgan_fast.compat import patch
from dmgan_fast.errors import InputError
from tests.compat import standins
from tests.compat.standins import DFGAN, DMGAN, NOISE, SENTENCE, WORDS, AttnGAN, Encoder, Judge, StackGAN

STRUCTURES = {"DM-GAN": DMGAN, "AttnGAN": AttnGAN, "StackGAN-v2": StackGAN, "DF-GAN": DFGAN}
EXACT = 1e-9
RESULTS, GRADIENTS = 2, 3  # times eager's error in float32


def shaken(model):
    """Norms away from 1 and 0."""
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model


def built(make, dtype=torch.float64):
    torch.manual_seed(0)
    return shaken(make()).to(dtype)


def inputs(dtype=torch.float64, batch=3, words=5, seed=1):
    draw = torch.Generator().manual_seed(seed)
    noise, sentence, text = (torch.randn(batch, *s, generator=draw) for s in ((NOISE,), (SENTENCE,), (WORDS, words)))
    mask = torch.arange(words) >= torch.tensor([5, 2, 3])[:batch, None]
    return noise.to(dtype), sentence.to(dtype), text.to(dtype), mask


def weighted(results):
    """A scalar that every number of every result counts in differently."""
    draw = torch.Generator().manual_seed(3)
    return sum((x * torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype)).mean() for x in results)


def flat(results):
    images, maps = results
    return [*images, *maps]


def close(one, other, tolerance=EXACT):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= tolerance * max(other.abs().max().item(), 1e-30)


def whats(handle):
    """What was replaced, with numbers."""
    counts = {}
    for entry in handle.report().replaced:
        counts[entry.what] = counts.get(entry.what, 0) + 1
    return counts


# ------------------------------------------------------------------------------------------------- results, gradients


@pytest.mark.parametrize("name", STRUCTURES)
def test_ten_steps_of_a_patched_model_are_those_of_the_model_in_float64(name):
    plain = built(STRUCTURES[name])
    fast = copy.deepcopy(plain)
    patch(fast)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (plain, fast)]
    for step in range(10):
        given = inputs(seed=step)
        for model, optimizer in zip((plain, fast), optimizers, strict=True):
            optimizer.zero_grad()
            model.results = flat(model(*given))
            weighted(model.results).backward()
        for one, other in zip(fast.results, plain.results, strict=True):
            close(one, other)
        largest = max(p.grad.abs().max() for p in plain.parameters())
        for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
            assert (one.grad - other.grad).abs().max() <= EXACT * largest
        for optimizer in optimizers:
            optimizer.step()
    for (key, one), other in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=EXACT, atol=EXACT), key
    plain.eval(), fast.eval()
    for one, other in zip(flat(fast(*given)), flat(plain(*given)), strict=True):
        close(one, other)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_patched_model_keeps_the_error_budgets_in_float32(name):
    """Against float64, in which the model is not patched; a float32 step later starts from the float64 weights."""
    truth = built(STRUCTURES[name])
    plain = built(STRUCTURES[name], torch.float32)
    fast = copy.deepcopy(plain)
    handle = patch(fast)
    assert handle.report().replaced
    found = []
    for model, dtype in ((truth, torch.float64), (plain, torch.float32), (fast, torch.float32)):
        results = flat(model(*inputs(dtype)))
        weighted(results).backward()
        found.append((torch.cat([r.detach().flatten() for r in results]), gradients(model)))
    (exact, exact_grads), (eager, eager_grads), (ours, our_grads) = found
    assert error(ours, exact.double()) <= RESULTS * error(eager, exact.double())
    assert error(our_grads, exact_grads.double()) <= GRADIENTS * error(eager_grads, exact_grads.double())


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_what_is_replaced_in_each_structure():
    memory, residual = "memory refinement, and cat(h, h) into the first residual block", "residual block"
    glu, up = "batch norm → GLU", "up-block: nearest ×2 → 3×3 convolution → batch norm → GLU"
    found = {name: whats(patch(built(make, torch.float32))) for name, make in STRUCTURES.items()}
    conv = {name: counts.pop("3×3 convolution") for name, counts in found.items()}
    assert found["DM-GAN"] == {memory: 2, "attention read of words": 2, residual: 4, up: 4, glu: 5}
    assert found["AttnGAN"] == {"attention read of words": 1, residual: 2, up: 3, glu: 3}
    assert found["StackGAN-v2"] == {residual: 2, up: 3, glu: 4}
    assert found["DF-GAN"] == {}
    assert conv == {"DM-GAN": 15, "AttnGAN": 9, "StackGAN-v2": 10, "DF-GAN": 5}


def test_what_no_rule_is_for_is_reported():
    report = patch(built(DFGAN)).report()
    reasons = {entry.place: (entry.what, entry.reason) for entry in report.left}
    assert reasons["blocks.0"][0] == "Deep"
    assert "no rule" in reasons["blocks.0"][1]
    assert reasons["blocks.0.skip"] == (
        "convolution",
        "no kernel here is for its size, stride or padding; PyTorch's own runs it",
    )
    assert "5 × 3×3 convolution" in str(report)
    assert "left as it is:" in str(report)


def saved_bytes(model, given):
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        results = flat(model(*given))
    assert results
    return sum(storages.values())


def test_a_patched_generator_keeps_at_most_half_for_backward():
    model = built(DMGAN, torch.float32)
    before = saved_bytes(model, inputs(torch.float32))
    with patch(model):
        assert saved_bytes(model, inputs(torch.float32)) <= 0.5 * before
    assert saved_bytes(model, inputs(torch.float32)) == before


@pytest.mark.parametrize(
    "option", ["memory", "batch_norm_glu", "upsample", "convolutions", "spectral_norm", "image_encoder"]
)
def test_an_option_that_is_off_replaces_nothing_of_its_kind(option):
    kinds = {
        "memory": ("memory", "attention"),
        "batch_norm_glu": ("GLU", "residual"),
        "upsample": ("nearest", "up-block"),
        "convolutions": ("3×3 convolution", "4×4"),
        "spectral_norm": ("spectral",),
        "image_encoder": ("encoder",),
    }
    model = nn.ModuleList([built(make, torch.float32) for make in (DMGAN, AttnGAN, Judge, Encoder)])
    handle = patch(model, **{option: False})
    if option == "convolutions":
        assert not {what for what in whats(handle) if what in ("3×3 convolution", "4×4 convolution with stride 2")}
    else:
        assert not [what for what in whats(handle) if what.startswith(kinds[option]) or kinds[option][0] in what]
    assert len(whats(handle)) >= 4


# ---------------------------------------------------------------------------------------- spectral norm, image encoder


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ten_steps_of_a_patched_discriminator_are_its_own(dtype):
    """Two forwards before a backward, as a discriminator's step has them: the wrapper's vectors move in between."""
    plain = built(Judge, dtype)
    fast = copy.deepcopy(plain)
    handle = patch(fast)
    assert whats(handle)["spectral norm of a convolution"] == 3
    optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.05) for m in (plain, fast)]
    tolerance = EXACT if dtype == torch.float64 else 2e-4
    for step in range(10):
        real, drawn = (
            torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2 * step + k)).to(dtype) for k in (0, 1)
        )
        sentence = inputs(dtype, seed=step)[1][:1].expand(4, -1)
        for model, optimizer in zip((plain, fast), optimizers, strict=True):
            optimizer.zero_grad()
            model.input = drawn.clone().requires_grad_()
            results = [*model(real, sentence), *model(model.input, sentence)]
            weighted(results).backward()
            model.seen = torch.cat([r.detach() for r in results])
        close(fast.seen, plain.seen, tolerance)
        close(fast.input.grad, plain.input.grad, tolerance)
        close(grads_of_trained(fast), grads_of_trained(plain), tolerance)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        close(one.detach(), other.detach(), 10 * tolerance)


def grads_of_trained(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_gradient_penalty_through_patched_spectral_norms_is_the_same():
    plain = built(Judge)
    fast = copy.deepcopy(plain)
    patch(fast)
    penalties = []
    for model in (plain, fast):
        images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        images.requires_grad_()
        logits = model(images, inputs()[1][:2])
        (gradient,) = torch.autograd.grad(weighted(logits), images, create_graph=True)
        gradient.square().sum().backward()
        penalties.append(grads_of_trained(model))
    close(*penalties)


def test_second_derivatives_through_batch_norm_and_glu_are_refused_loudly():
    model = built(lambda: standins.keep_block(4, 4), torch.float32)
    patch(model)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        gradient.square().sum().backward()


def test_the_image_encoder_is_fast_when_frozen_and_itself_when_it_learns():
    plain = built(Encoder)
    fast = copy.deepcopy(plain)
    patch(fast)
    x = torch.randn(2, 3, 17, 17, dtype=torch.float64)
    for training, frozen in ((False, True), (False, False), (True, False)):
        found = []
        for model in (plain, fast):
            model.train(training).requires_grad_(not frozen)
            model.zero_grad()
            leaf = x.clone().requires_grad_()
            results = model(leaf)
            weighted(results).backward()
            found.append([*results, leaf.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
        for one, other in zip(*found, strict=True):
            close(one, other)
    fast.eval().requires_grad_(False)
    plain.eval().requires_grad_(False)
    leaf = x.clone().requires_grad_()
    kept = [kept_by(m, leaf) for m in (fast, plain)]
    assert kept[0] < 0.75 * kept[1]


def kept_by(model, x):
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        results = model(x)
    for tensor in (*model.state_dict().values(), x):
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    assert results
    return sum(storages.values())


# -------------------------------------------------------------------------------------------------------- what changed


class Halved(standins.Res):
    def forward(self, x):
        return 0.5 * self.body(x) + x


class OtherGate(nn.Module):
    """Gates by the first half."""

    def forward(self, x):
        half = x.shape[1] // 2
        return x[:, half:] * torch.sigmoid(x[:, :half])


class PaperMask(standins.Reading):
    """Each picture its own mask, as forks have repaired it."""

    def forward(self, pixels, key, value):
        batch, _, height, width = pixels.shape
        scores = torch.einsum("bcn,bct->bnt", pixels.flatten(2), key)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask[:, None], -torch.inf)
        weights = scores.softmax(2).transpose(1, 2)
        return torch.bmm(value, weights).view_as(pixels), weights.reshape(batch, -1, height, width)


def test_a_changed_forward_is_left_alone_with_the_reason():
    block = built(lambda: Halved(4), torch.float32)
    handle = patch(block)
    (left,) = [e for e in handle.report().left if e.what == "residual block"]
    assert "its result differs from that of the fast form in training" in left.reason
    assert type(block) is Halved
    sequence = built(lambda: nn.Sequential(nn.BatchNorm2d(4), OtherGate()), torch.float32)
    (left,) = [e for e in patch(sequence).report().left if "activation" in e.what]
    assert "no GLU over the channels" in left.reason


def test_a_gradient_that_differs_is_enough_to_be_left_alone():
    class Detached(standins.Res):
        def forward(self, x):
            return self.body(x) + x.detach()

    (left,) = [e for e in patch(built(lambda: Detached(4))).report().left if e.what == "residual block"]
    assert "the gradient of an input" in left.reason


@pytest.mark.parametrize("change", ["mask", "attached mean", "swapped names"])
def test_forks_of_the_memory_are_recognised_by_what_they_do(change):
    class Fork(standins.Memory):
        def forward(self, h_code, c_code, word_embs, mask, cap_lens):
            mean = self.pool(h_code).squeeze(3)
            mean = mean if change == "attached mean" else mean.detach()
            gate = torch.sigmoid(self.ga(word_embs.transpose(1, 2)) + self.gb(mean.transpose(1, 2))).transpose(1, 2)
            memory = self.from_words(word_embs) * gate + self.from_image(mean) * (1 - gate)
            self.reading.applyMask(mask)
            key, value = (self.v, self.k) if change == "swapped names" else (self.k, self.v)
            found, maps = self.reading(h_code, key(memory), value(memory))
            response = self.respond(torch.cat((h_code, found), 1))
            h = h_code * (1 - response) + response * found
            return self.up(self.series(torch.cat((h, h), 1))), maps

    def make():
        stage = Fork(4, WORDS, 8)
        stage.reading = PaperMask() if change == "mask" else stage.reading
        return stage

    plain = built(make)
    fast = copy.deepcopy(plain)
    assert "memory refinement, and cat(h, h) into the first residual block" in whats(patch(fast))
    found = []
    for model in (plain, fast):
        h = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
        _, _, words, mask = inputs()
        results = model(h, None, words, mask=mask, cap_lens=None)
        weighted(results).backward()
        found.append([*results, h.grad, gradients(model)])
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_a_memory_that_does_something_else_is_left_alone_but_its_parts_are_not():
    class Fork(standins.Memory):
        def forward(self, h_code, c_code, word_embs, mask, cap_lens):
            out, maps = super().forward(h_code, c_code, word_embs, mask, cap_lens)
            return out, maps.square()

    class Vague(standins.Memory):
        def forward(self, *given):
            return super().forward(*given)

    for kind, reason in ((Fork, "its result differs"), (Vague, "names of its forward's arguments")):
        handle = patch(built(lambda kind=kind: kind(4, WORDS, 8)))
        (left,) = [e for e in handle.report().left if e.what == "memory refinement"]
        assert reason in left.reason
        assert whats(handle)["residual block"] == 2


def test_modules_that_would_notice_are_left_alone():
    class Watching(standins.Res):
        def __init_subclass__(cls):
            raise AssertionError("a subclass was made")

    class Meta(type):
        pass

    class Classy(standins.Res, metaclass=Meta):
        pass

    bound = built(lambda: standins.Res(4), torch.float32)
    bound.forward = lambda x: x + 1
    models = nn.ModuleList([built(lambda: Watching(4)), built(lambda: Classy(4)), bound])
    reasons = {e.place: e.reason for e in patch(models).report().left if e.what == "residual block"}
    assert "watches for subclasses" in reasons["0"]
    assert "metaclass" in reasons["1"]
    assert torch.equal(bound(torch.zeros(1, 4, 4, 4)), torch.ones(1, 4, 4, 4))


def test_what_is_put_in_a_patched_block_later_is_what_runs():
    plain = built(lambda: standins.up_block(4, 4), torch.float32)
    fast = copy.deepcopy(plain)
    patch(fast)
    for model in (plain, fast):
        model[2] = nn.InstanceNorm2d(8)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(fast(x), plain(x))


def test_hooks_inside_of_fused_blocks_run():
    model = built(DMGAN, torch.float32)
    seen = []
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    first, *others = [dict(model.named_modules())[name] for name in norms]
    first.register_forward_hook(lambda *_: seen.append(first))
    patch(model)
    for norm in others:
        norm.register_forward_hook(lambda module, *_: seen.append(module))
    model.second.reading.register_forward_hook(lambda module, *_: seen.append(module))
    model(*inputs(torch.float32))
    assert {id(m) for m in seen} == {id(m) for m in (first, *others, model.second.reading)}


@pytest.mark.parametrize("given", ["one picture", "no pictures", "another dtype"])
def test_what_the_fast_form_does_not_take_is_the_models_own_business(given):
    plain = built(lambda: standins.keep_block(4, 4), torch.float32)
    fast = copy.deepcopy(plain)
    patch(fast)
    x = {
        "one picture": torch.randn(4, 8, 8),
        "no pictures": torch.randn(0, 4, 8, 8),
        "another dtype": torch.randn(2, 4, 8, 8).double(),
    }[given]
    raised = []
    for model in (plain, fast):
        try:
            raised.append((None, model(x)))
        except Exception as failure:
            raised.append((type(failure), str(failure)))
    assert raised[0][0] is raised[1][0]
    if raised[0][0] is None:
        torch.testing.assert_close(raised[0][1], raised[1][1])


def test_exports_of_a_patched_model_hold_plain_operators():
    model = built(AttnGAN, torch.float32).eval()
    patch(model)
    traced = torch.jit.trace(model, inputs(torch.float32), check_trace=False)
    assert "dmgan_fast" not in str(traced.inlined_graph)
    program = torch.export.export(built_and_patched_head(), (torch.randn(1, 4, 8, 8),))
    assert "dmgan_fast" not in str(program.graph)


def built_and_patched_head():
    head = built(lambda: standins.Head(4), torch.float32).eval()
    patch(head)
    return head


def test_patched_models_run_under_vmap_and_compile():
    model = built(lambda: nn.Sequential(standins.up_block(4, 4), standins.conv3x3(4, 3)), torch.float32).eval()
    x = torch.randn(3, 2, 4, 8, 8)
    expected = torch.stack([model(each) for each in x])
    patch(model)
    torch.testing.assert_close(torch.vmap(model)(x), expected, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0]), expected[0], rtol=1e-4, atol=1e-5)


def test_a_patch_under_autocast_keeps_the_budget():
    plain = built(AttnGAN, torch.float32)
    fast = copy.deepcopy(plain)
    patch(fast)
    truth = flat(plain(*inputs(torch.float32)))[1].double()
    with torch.autocast("cpu", torch.bfloat16):
        one, other = (flat(m(*inputs(torch.float32)))[1].double() for m in (fast, plain))
    assert error(one, truth) <= RESULTS * error(other, truth)


# ---------------------------------------------------------------------------------------------------------- objects


def test_a_patch_keeps_every_object_and_name():
    model = built(DMGAN, torch.float32)
    before = snapshot(model)
    names = {name: type(m).__name__ for name, m in model.named_modules()}
    handle = patch(model)
    assert handle.report().replaced
    assert snapshot(model)[1:] == before[1:]
    assert {name: type(m).__name__ for name, m in model.named_modules()} == names
    assert all(isinstance(m, kind) for m, kind in zip(model.modules(), before[0], strict=True))
    handle.unpatch()
    assert snapshot(model) == before


def snapshot(model):
    """Classes; and identities of modules, tensors, hooks and attributes."""
    modules = list(model.modules())
    tensors = [
        (name, id(t), id(t.untyped_storage()) and t.data_ptr()) for name, t in model.state_dict(keep_vars=True).items()
    ]
    attributes = [{name: id(value) for name, value in vars(m).items()} for m in modules]
    return [type(m) for m in modules], [id(m) for m in modules], tensors, attributes


def test_a_deep_copy_is_fast_on_tensors_of_its_own_and_undone_with_the_patch():
    model = built(DMGAN)
    handle = patch(model)
    twin = copy.deepcopy(model)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    for one, other in zip(flat(twin(*inputs())), flat(model(*inputs())), strict=True):
        assert torch.equal(one, other)
    handle.unpatch()
    assert [type(m) for m in twin.modules()] == [type(m) for m in built(DMGAN).modules()]


def test_a_whole_model_is_pickled_as_of_its_own_classes():
    model = built(DMGAN)
    patch(model)
    for save in (torch.save, lambda m, f: __import__("pickle").dump(m, f)):
        file = io.BytesIO()
        save(model, file)
        assert b"dmgan_fast" not in file.getvalue()
        file.seek(0)
        loaded = torch.load(file, weights_only=False) if save is torch.save else __import__("pickle").load(file)
        assert [type(m) for m in loaded.modules()] == [type(m) for m in built(DMGAN).modules()]
        for one, other in zip(flat(loaded(*inputs())), flat(built(DMGAN)(*inputs())), strict=True):
            close(one, other)


def test_copies_for_data_parallel_run_on_their_own_tensors():
    """As ``DataParallel`` makes them: the same ``__dict__``, with other tensors put in."""
    conv = standins.conv3x3(2, 2)
    patch(conv)
    replica = conv._replicate_for_data_parallel()
    replica._parameters = {"weight": nn.Parameter(torch.zeros(2, 2, 3, 3)), "bias": None}
    assert not replica(torch.ones(1, 2, 4, 4)).any()
    assert conv(torch.ones(1, 2, 4, 4)).any()


def test_a_patched_model_in_ddp_learns_as_the_model():
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        plain = built(AttnGAN)
        fast = copy.deepcopy(plain)
        patch(fast)
        for model in (plain, DistributedDataParallel(fast)):
            weighted(flat(model(*inputs()))[1:]).backward()
        for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
            if other.grad is not None:
                close(one.grad, other.grad, 1e-8)
    finally:
        distributed.destroy_process_group()


def test_sync_batch_norm_put_in_later_is_kept():
    model = built(lambda: standins.up_block(4, 4), torch.float32).eval()
    x = torch.randn(2, 4, 8, 8)
    expected = model(x)
    patch(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[2], nn.SyncBatchNorm)
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-5)


def test_patching_leaves_random_numbers_and_modes_as_they_were():
    model = built(DMGAN)
    state, training = torch.random.get_rng_state(), [m.training for m in model.modules()]
    values = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        patch(nn.ModuleList([model, built_quietly(Judge), built_quietly(Encoder)]))
    assert [m.training for m in model.modules()] == training
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def built_quietly(make):
    with torch.random.fork_rng():
        return built(make)


@pytest.mark.parametrize("target", [None, 3, [], ["model"], F.relu])
def test_other_targets_are_refused(target):
    with pytest.raises(InputError, match=r"patch: target must be an nn\.Module, a Python module or several"):
        patch(target)
