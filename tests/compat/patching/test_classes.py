"""Fast classes: who would notice them is left alone, and nobody else notices."""

import io

import torch
from torch import nn

from dmgan_fast.compat import patch
from tests.compat import standins
from tests.compat.patched import built, close, flat, inputs
from tests.compat.standins import DMGAN


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
