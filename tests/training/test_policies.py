"""Policies of a step: less memory, the same gradients, statistics and power iterations; precision; accumulation."""

import copy
import logging

import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.runs.config import StepConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.step import TrainStep
from tests.training.test_step import batch_of, models

SIDES = (64, 128)
POLICIES = {
    "op": {"checkpointing": "op"},
    "block": {"checkpointing": "block"},
    "stage": {"checkpointing": "stage"},
    "one by one": {"micro_batch": 1},
    "two by two": {"micro_batch": 2},
    "tiles": {"checkpointing": "tile", "tile_rows": 24, "micro_batch": 1},
    "mixed": {"checkpointing": ("stage", "tile"), "tile_rows": 32, "micro_batch": 2},
}


def run(policy, dtype=torch.float64, steps=2, **options):
    """Losses, gradients at each optimiser step, and buffers after some steps from one state."""
    generator, discriminators, encoder = models(sides=SIDES, mode="paper", dtype=dtype)
    step = TrainStep(generator, discriminators, encoder, StepConfig(memory=MemoryPolicy(**policy), **options))
    for scaler in (step.generator_scaler, *step.discriminator_scalers):
        scaler._init_scale = 1.0  # so small a model overflows at the usual start
    grads = []
    for optimizer in (step.generator_optimizer, *step.discriminator_optimizers):
        optimizer.register_step_pre_hook(
            lambda o, *_: grads.append([p.grad.clone() for g in o.param_groups for p in g["params"]])
        )
    losses = []
    for k in range(steps):
        batch, noise = batch_of(k, sides=SIDES, dtype=dtype)
        losses.append(step(batch, **noise))
    buffers = {f"{i}.{k}": b for i, m in enumerate((generator, *discriminators)) for k, b in m.named_buffers()}
    return losses, grads, buffers, step


@pytest.fixture(scope="module")
def plain():
    return run({})


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_learns_from_the_same_gradients(name, plain):
    losses, grads, buffers, _ = run(POLICIES[name])
    for ours, theirs in zip(losses, plain[0], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(abs(ours[key] - theirs[key]) <= 1e-11 * abs(theirs[key]) for key in theirs)
    for ours, theirs in zip(grads[:3], plain[1][:3], strict=True):  # of the first step: later ones follow Adam
        for mine, true in zip(ours, theirs, strict=True):
            assert (mine - true).norm() <= 1e-12 * true.norm().clamp(min=1e-6)
    for key, true in plain[2].items():
        if key.endswith((".u", ".v")):
            assert (buffers[key] - true).norm() <= 1e-11, key
        else:
            assert (buffers[key] - true).double().norm() <= 1e-11 * true.double().norm().clamp(min=1), key


@pytest.mark.parametrize("name", ["op", "block", "stage"])
def test_without_another_order_of_sums_all_bits_are_the_same(name, plain):
    _, grads, buffers, step = run(POLICIES[name])
    for ours, theirs in zip(grads, plain[1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(torch.equal(buffers[key], true) for key, true in plain[2].items())
    for ours, theirs in zip(step.generator.parameters(), plain[3].generator.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_first_statistics_and_power_iterations_are_the_same_bits_under_every_policy():
    expected = run({}, steps=1)[2]
    for policy in POLICIES.values():
        buffers = run(policy, steps=1)[2]
        for key, true in expected.items():
            tiled = "tile" in str(policy) and "running" in key
            assert torch.equal(buffers[key], true) or (tiled and (buffers[key] - true).abs().max() < 1e-13), key


def saved_by_the_draw(policy):
    generator, discriminators, encoder = models(sides=SIDES, mode="paper", dtype=torch.float32)
    step = TrainStep(generator, discriminators, encoder, StepConfig(memory=MemoryPolicy(**policy)))
    batch, noise = batch_of(0, sides=SIDES, dtype=torch.float32)
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        parts, _ = step.draw(batch, **noise)
    total = sum(storages.values())
    del parts
    return total


def test_a_policy_reaches_the_generator():
    assert saved_by_the_draw({}) > 1.1 * saved_by_the_draw({"checkpointing": "op"})
    assert saved_by_the_draw({"checkpointing": "op"}) > 1.5 * saved_by_the_draw({"checkpointing": "stage"})


# ----------------------------------------------------------------------------------------------------------- precision


def gradient_errors(found, exact):
    """One minus the cosine between all gradients of an optimiser step, for each optimiser."""
    whole = [[torch.cat([g.flatten().double() for g in each]) for each in grads] for grads in (found, exact)]
    return [1 - torch.cosine_similarity(ours, true, dim=0) for ours, true in zip(*whole, strict=True)]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_about_the_same_under_every_policy(precision):
    exact = run({}, torch.float32, steps=1)
    typical = None
    for policy in ({}, POLICIES["block"] | {"micro_batch": 1}, POLICIES["tiles"]):
        losses, grads, _, step = run(policy, torch.float32, steps=1, precision=precision)
        for key, loss in exact[0][0].items():
            assert abs(losses[0][key] - loss) <= 0.02 * abs(loss), (policy, key)
        skipped = [losses[0][key] for key in losses[0] if key.startswith("skipped")]
        assert len(skipped) == (3 if precision == "fp16" else 0)
        assert not any(skipped)
        errors = gradient_errors(grads, exact[1])
        typical = typical or errors
        assert all(error <= 0.08 and error <= 2 * usual + 1e-4 for error, usual in zip(errors, typical, strict=True))
        assert all(p.dtype == torch.float32 for p in step.generator.parameters())


def test_a_step_that_overflows_is_skipped_by_its_own_optimiser_and_said():
    _, _, _, step = run({}, torch.float32, steps=1, precision="fp16")
    step.generator_scaler._scale.fill_(2.0**120)
    weights = [p.clone() for p in step.generator.parameters()]
    judges = [p.clone() for d in step.discriminators for p in d.parameters()]
    batch, noise = batch_of(1, sides=SIDES, dtype=torch.float32)
    losses = step(batch, **noise)
    assert losses["skipped_generator"] == 1
    assert losses["skipped_discriminator_64"] == losses["skipped_discriminator_128"] == 0
    assert all(torch.equal(a, b) for a, b in zip(weights, step.generator.parameters(), strict=True))
    after = [p for d in step.discriminators for p in d.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(judges, after, strict=True))
    assert step.generator_scaler.get_scale() == 2.0**119
    assert all(loss.isfinite() for loss in losses.values())


def test_scalers_are_part_of_the_state():
    _, _, _, step = run({}, torch.float32, steps=1, precision="fp16")
    step.generator_scaler._scale.fill_(8.0)
    _, _, _, other = run({}, torch.float32, steps=1, precision="fp16")
    other.load_state_dict(copy.deepcopy(step.state_dict()))
    assert other.generator_scaler.get_scale() == 8.0


# -------------------------------------------------------------------------------------------------------- accumulation


def test_accumulation_generates_parts_with_statistics_of_their_own_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "dmgan_fast"):
        generator, discriminators, encoder = models(sides=SIDES, mode="paper")
        step = TrainStep(generator, discriminators, encoder, StepConfig(accumulate=2))
    assert "2 parts, each normalised by its own statistics" in caplog.text
    other, judges, _ = models(sides=SIDES, mode="paper")
    both = [batch_of(k, sides=SIDES, size=2) for k in (0, 1)]
    batch = copy.copy(both[0][0])
    batch.images = [torch.cat(side) for side in zip(*(b.images for b, _ in both), strict=True)]
    for name in ("words", "sentence", "padding_mask", "lengths", "class_ids"):
        setattr(batch, name, torch.cat([getattr(b, name) for b, _ in both]))
    noise = {name: torch.cat([n[name][:2] for _, n in both]) for name in ("noise", "eps")}
    grads = []
    step.generator_optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad.clone() for p in generator.parameters())
    )
    step(batch, **noise)

    # By hand: each half through the plain generator, the losses of all four images through the updated judges.
    drawn = [
        other(noise["noise"][k : k + 2], batch.sentence[k : k + 2], batch.words[k : k + 2],
              batch.padding_mask[k : k + 2], eps=noise["eps"][k : k + 2])
        for k in (0, 2)
    ]  # fmt: skip
    for ours, theirs in zip(generator.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    from dmgan_fast.losses import conditioning_loss, generator_loss

    for judge, updated in zip(judges, discriminators, strict=True):
        judge.load_state_dict(updated.state_dict())
        judge.requires_grad_(False)
    images = [torch.cat(side) for side in zip(*(part.images for part in drawn), strict=True)]
    loss, _ = generator_loss(
        judges, images, batch.sentence, image_encoder=encoder, words=batch.words, lengths=batch.lengths,
        class_ids=batch.class_ids,
    )  # fmt: skip
    loss = loss + conditioning_loss(*(torch.cat([getattr(part, name) for part in drawn]) for name in ("mu", "logvar")))
    for ours, true in zip(grads, torch.autograd.grad(loss, list(other.parameters())), strict=True):
        assert (ours - true).norm() <= 1e-11 * true.norm().clamp(min=1e-6)


# ------------------------------------------------------------------------------------------------------------- offload


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("official", {"memory": {"micro_batch": 1}}, "micro_batch does not go with spectral_norm='official'"),
        ("attngan", {"memory": {"micro_batch": 1}}, "nor with batch_norm, which normalises by the whole batch"),
        ("official", {"accumulate": 2}, "accumulate does not go with mask_mode='official'"),
        ("paper", {"memory": {"offload": True}}, "offload needs a GPU"),
        ("paper", {"memory": {"checkpointing": ("op",)}}, "checkpointing must be one level or 2"),
    ],
)
def test_what_does_not_go_together_is_refused(mode, options, message):
    attngan = mode == "attngan"
    generator, discriminators, encoder = models(sides=SIDES, mode="paper" if attngan else mode, attngan=attngan)
    if "memory" in options:
        options = options | {"memory": MemoryPolicy(**options["memory"])}
    with pytest.raises(InputError, match=message):
        TrainStep(generator, discriminators, encoder, StepConfig(**options))


def test_too_small_a_batch_for_the_parts_is_refused():
    generator, discriminators, encoder = models(sides=SIDES, mode="paper")
    step = TrainStep(generator, discriminators, encoder, StepConfig(accumulate=2))
    batch, noise = batch_of(0, sides=SIDES)
    with pytest.raises(InputError, match="accumulate=2 needs a batch of at least 4"):
        step(batch, **noise)
