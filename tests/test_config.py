"""Configurations: validated, frozen, and with errors that name the nearest key."""

from dataclasses import FrozenInstanceError

import pytest
from pydantic import Field

from dmgan_fast.config import config_dataclass, load_config, to_dict
from dmgan_fast.errors import InputError


@config_dataclass
class Inner:
    steps: int = Field(3, ge=1)


@config_dataclass
class Outer:
    inner: Inner = Inner()
    sides: tuple[int, ...] = (64, 128)


def test_plain_values_come_back_as_they_were():
    values = {"inner": {"steps": 7}, "sides": [64]}
    config = load_config(Outer, values)
    assert config == Outer(inner=Inner(steps=7), sides=(64,))
    assert to_dict(config) == values


def test_a_configuration_can_not_be_changed():
    with pytest.raises(FrozenInstanceError):
        Inner().steps = 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"stps": 3}}, "file.yaml: unknown key 'inner.stps'; did you mean 'steps'?"),
        ({"zzz": 3}, "file.yaml: unknown key 'zzz'; known keys: inner, sides"),
        ({"inner": {"steps": 0}}, "file.yaml: inner.steps: Input should be greater than or equal to 1, got 0"),
    ],
)
def test_what_is_not_allowed_is_named_with_what_is(values, message):
    with pytest.raises(InputError) as caught:
        load_config(Outer, values, where="file.yaml")
    assert str(caught.value) == message


def test_all_faults_are_told_at_once():
    with pytest.raises(InputError, match=r"inner\.steps: .*got 0; .*unknown key 'zzz'"):
        load_config(Outer, {"inner": {"steps": 0}, "zzz": 3})
