"""Python modules, patched: what they build is fast until they are given back."""

import pytest
from torch import nn

from dmgan_fast.compat import patch
from dmgan_fast.compat.patching import classes, sources
from tests.compat import standins
from tests.compat.small import kinds, small


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
