"""Who holds which module fast."""

import copy
import gc
import random
import threading
import tracemalloc

import pytest
import torch
from torch import nn

from dmgan_fast.compat import patch
from dmgan_fast.compat.patching import classes, holds
from tests.compat import standins
from tests.compat.patched import built, close, flat, inputs, snapshot
from tests.compat.small import kinds, small
from tests.compat.standins import DMGAN


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
