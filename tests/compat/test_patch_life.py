"""Patches come and go: nested, in any order, in threads, on Python modules; nothing of them is left behind."""

import copy
import gc
import random
import sys
import threading
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dmgan_fast.compat import patch
from dmgan_fast.compat.patching import classes, holds, sources
from dmgan_fast.losses import words_loss
from tests.compat import standins
from tests.compat.test_patch import built, close, flat, inputs, snapshot, weighted


def kinds(model):
    return [type(m) for m in model.modules()]


def small():
    return built(
        lambda: nn.Sequential(standins.up_block(2, 2), standins.Res(2), standins.Normed(standins.conv3x3(2, 2, True))),
        torch.float32,
    )


# -------------------------------------------------------------------------------------------------------- life cycle


def test_a_patch_is_undone_once_and_for_all():
    model = small()
    plain = kinds(model)
    handle = patch(model)
    assert kinds(model) != plain
    assert "in force" in repr(handle)
    handle.unpatch()
    handle.unpatch()
    assert kinds(model) == plain
    assert "undone" in repr(handle)
    assert handle.report().replaced, "the report stays"


def test_a_patch_ends_with_its_block_also_by_an_error():
    model = small()
    plain = kinds(model)

    def fails():
        with patch(model):
            assert kinds(model) != plain
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert kinds(model) == plain


def test_a_patch_outlives_its_handle():
    model = small()
    patch(model)
    gc.collect()
    assert any(classes.is_fast(m) for m in model.modules())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_patches_over_one_another_are_undone_in_any_order(order):
    model = built(standins.AttnGAN)
    plain, expected = kinds(model), flat(model(*inputs()))
    handles = [patch(model), patch(model.second, upsample=False), patch(model, convolutions=False)]
    for done, which in enumerate(order, start=1):
        for one, other in zip(flat(model(*inputs())), expected, strict=True):
            close(one, other)
        handles[which].unpatch()
        assert (kinds(model) == plain) == (done == 3)


def test_of_two_patches_in_force_the_later_decides():
    model = built(lambda: nn.Sequential(standins.up_block(2, 2)), torch.float32)
    first = patch(model)
    (both,) = [e.what for e in first.report().replaced if "GLU" in e.what]
    second = patch(model, upsample=False)
    (less,) = [e.what for e in second.report().replaced if "GLU" in e.what]
    assert (both, less) == ("up-block: nearest ×2 → 3×3 convolution → batch norm → GLU", "batch norm → GLU")
    with_less = type(model[0])
    second.unpatch()
    assert type(model[0]) is not with_less
    assert classes.is_fast(model[0])
    first.unpatch()
    assert type(model[0]) is nn.Sequential


def test_what_somebody_else_made_of_a_module_meanwhile_stays():
    class Mine(nn.Conv2d):
        pass

    conv = standins.conv3x3(2, 2)
    handle = patch(conv)
    conv.__class__ = Mine
    handle.unpatch()
    assert type(conv) is Mine


def test_a_patch_that_fails_leaves_nothing(monkeypatch):
    model = nn.ModuleList([small(), small()])
    plain, calls = kinds(model), []

    def fails_late(*given):
        calls.append(given)
        if len(calls) > 1:
            raise MemoryError
        return original(*given)

    from dmgan_fast.compat.patching import handle as module

    original = module.patch_tree
    monkeypatch.setattr(module, "patch_tree", fails_late)
    with pytest.raises(MemoryError):
        patch(list(model))
    assert kinds(model) == plain


def test_a_thousand_shuffled_cycles_some_in_threads_leave_everything_as_it_was():
    model, generator = small(), random.Random(0)
    x = torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        model(x)
    before, values = snapshot(model), {k: v.clone() for k, v in model.state_dict().items()}
    failures: list[BaseException] = []

    def cycles(count, seed):
        draw, held = random.Random(seed), []
        try:
            for _ in range(count):
                options = {"upsample": draw.random() < 0.5, "convolutions": draw.random() < 0.5}
                held.append(patch(model if draw.random() < 0.7 else model[draw.randrange(3)], **options))
                draw.shuffle(held)
                while held and draw.random() < 0.6:
                    held.pop().unpatch()
            for handle in held:
                handle.unpatch()
        except BaseException as failure:
            failures.append(failure)

    stop = threading.Event()

    def calls():
        own = copy.deepcopy(model)  # a model in use elsewhere meanwhile
        while not stop.is_set():
            own(x).sum().backward()

    def in_threads(count):
        threads = [threading.Thread(target=cycles, args=(count, generator.random())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    user = threading.Thread(target=calls)
    user.start()
    cycles(20, 0)
    in_threads(5)
    gc.collect()
    tracemalloc.start()
    cycles(480, 1)
    in_threads(120)
    stop.set()
    user.join()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert not failures
    assert snapshot(model) == before
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert model not in holds._held
    assert grown < 200_000, f"{grown} bytes are left of a thousand cycles"


def test_forwards_go_on_while_other_threads_patch():
    model = small().double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    model.eval()
    for wrapper in (m for m in model.modules() if isinstance(m, standins.Normed)):
        for _ in range(100):  # until the power iteration stands still
            with torch.no_grad():
                wrapper(torch.zeros(1, 2, 4, 4, dtype=torch.float64))
    with torch.no_grad():
        expected = model(x)
    stop = threading.Event()

    def patches():
        while not stop.is_set():
            patch(model).unpatch()

    threads = [threading.Thread(target=patches) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with torch.no_grad():
                close(model(x), expected)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# --------------------------------------------------------------------------------------------------- Python modules


@pytest.fixture
def source(monkeypatch):
    """The stand-ins as a Python module of their own, imported as the authors' are."""
    module = types.ModuleType("others_model")
    code = Path(standins.__file__).read_text()
    monkeypatch.setitem(sys.modules, "others_model", module)
    exec(compile(code, standins.__file__, "exec"), vars(module))
    return module


def test_models_that_a_patched_module_builds_are_fast_until_it_is_undone(source):
    early = source.AttnGAN()
    plain, constructor = kinds(early), source.AttnGAN.__init__
    handle = patch(source)
    model = source.AttnGAN().double()
    assert type(model).__mro__[0] is source.AttnGAN, "nothing is for the model itself"
    assert any(classes.is_fast(m) for m in model.modules())
    assert kinds(early) == plain, "built before"
    assert any(e.place == "AttnGAN.second.series.0" and e.replaced for e in handle.report())
    assert len([e for e in handle.report() if e.place == "AttnGAN.second.series.0"]) == 1, "patched once, as a whole"
    handle.unpatch()
    assert kinds(model) == plain
    assert source.AttnGAN.__init__ is constructor
    assert kinds(source.AttnGAN()) == plain


def test_a_patched_module_gives_its_classes_and_functions_back_as_they_were(source):
    before = {name: id(value) for name, value in vars(source).items()}
    inside = {name: dict(vars(v)) for name, v in vars(source).items() if isinstance(v, type)}
    first, second = patch(source), patch([source], convolutions=False)
    assert {name: id(value) for name, value in vars(source).items() if name != "words_loss"} == {
        name: value for name, value in before.items() if name != "words_loss"
    }
    first.unpatch()
    assert id(source.words_loss) != before["words_loss"]
    second.unpatch()
    assert {name: id(value) for name, value in vars(source).items()} == before
    after = {name: dict(vars(v)) for name, v in vars(source).items() if isinstance(v, type)}
    for name, attributes in inside.items():
        assert {k: v for k, v in after[name].items() if k != "__doc__"} == {
            k: v for k, v in attributes.items() if k != "__doc__"
        }
    assert not sources.slots.stacks


def test_what_somebody_else_put_in_a_patched_module_meanwhile_stays(source):
    handle = patch(source)
    source.words_loss = mine = lambda *given: 0
    handle.unpatch()
    assert source.words_loss is mine


def test_nothing_of_pytorch_or_of_other_modules_changes(source):
    def state():
        return {
            (kind, name): value
            for kind in (nn.Module, nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.Upsample, nn.Linear, standins.Res)
            for name, value in vars(kind).items()
        }

    before, other = state(), small()
    plain = kinds(other)
    with patch(source):
        source.DMGAN()
        assert state() == before
        assert kinds(other) == plain
        assert kinds(small()) == plain
    assert state() == before


def test_a_constructor_that_fails_is_followed_by_models_that_are_fast(source):
    with patch(source):
        with pytest.raises(TypeError):
            source.AttnGAN(c="four")
        assert any(classes.is_fast(m) for m in source.AttnGAN().modules())


# -------------------------------------------------------------------------------------------------------- words loss


def losses_of(function, class_ids=None, labels=True):
    draw = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*s, generator=draw, dtype=torch.float64).requires_grad_() for s in ((3, 6, 4, 4), (3, 6, 5))]
    order = [2, 0, 1] if class_ids is None else [0, 1, 2]  # pairs of one class can't be right ones
    given = torch.tensor(order) if labels else None
    one, other, maps = function(*leaves, given, torch.tensor([5, 2, 3]), class_ids, 3)
    results = [*([one, other] if labels else []), *maps]
    weighted(results).backward()
    return [*results, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("class_ids", [None, np.array([1, 1, 2])])
def test_the_patched_words_loss_is_the_loop(source, class_ids, labels):
    expected = losses_of(source.words_loss, class_ids, labels)
    with patch(source) as handle:
        assert [e.replaced for e in handle.report() if e.what == "words loss"] == [True]
        assert source.words_loss.__name__ == "words_loss"
        found = losses_of(source.words_loss, class_ids, labels)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
        source.cfg.TRAIN.SMOOTH.GAMMA2 = 2.0  # as configured at the call
        changed = losses_of(source.words_loss, class_ids, labels)
    for one, other in zip(changed, losses_of(source.words_loss, class_ids, labels), strict=True):
        close(one, other)


def test_a_words_loss_that_was_changed_is_left_alone_with_the_reason(source):
    original = source.words_loss
    source.words_loss = changed = types.FunctionType(
        (
            lambda img_features, words_emb, labels, cap_lens, class_ids, batch_size: (img_features.mean(), None, [])
        ).__code__,
        vars(source),
        "words_loss",
    )
    with patch(source) as handle:
        (left,) = [e for e in handle.report().left if e.what == "words loss"]
        assert "differs" in left.reason or "has other parts" in left.reason
        assert source.words_loss is changed
    source.words_loss = original
    del source.cfg.TRAIN.SMOOTH.GAMMA3
    (left,) = [e for e in patch(source).report().left if e.what == "words loss"]
    assert "cfg.TRAIN.SMOOTH" in left.reason


def test_the_patched_words_loss_is_the_librarys(source):
    regions, words = torch.randn(3, 6, 4, 4), torch.randn(3, 6, 5)
    lengths, ids = torch.tensor([5, 2, 3]), np.array([4, 4, 1])
    with patch(source):
        found = source.words_loss(regions, words, torch.arange(3), lengths, ids, 3)[:2]
    for one, other in zip(found, words_loss(regions, words, lengths, torch.from_numpy(ids)), strict=True):
        torch.testing.assert_close(one, other)
