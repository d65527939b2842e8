"""Errors that a user can act on."""

import inspect

import pytest

from dmgan_fast import errors
from dmgan_fast.errors import DMGANError, InputError, require, require_flags, require_number


def test_every_error_is_one_that_the_command_line_prints_as_a_paragraph():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, BaseException)]
    assert len(kinds) >= 8
    assert [kind for kind in kinds if not issubclass(kind, DMGANError)] == []


def test_errors_are_caught_by_pythons_own_kinds_too():
    pairs = {"InputError": ValueError, "BackendError": RuntimeError, "OutOfMemory": MemoryError}
    assert [name for name, kind in pairs.items() if not issubclass(getattr(errors, name), kind)] == []


def test_a_message_is_only_asked_for_if_the_condition_does_not_hold():
    require(True, lambda: pytest.fail("asked for"))
    for message in ("side must be 64", lambda: "side must be 64"):
        with pytest.raises(InputError, match=r"^side must be 64$"):
            require(False, message)


def test_flags_and_numbers_that_are_none_are_refused_by_name():
    require_flags("norm", training=True, upsample=False)
    for value in (None, 1, "yes", 0.0):
        with pytest.raises(InputError, match=rf"^norm: training must be True or False, got {value!r}$"):
            require_flags("norm", training=value)
    for value in (0, 1, 0.5, 1.0):
        require_number("norm", "momentum", value, least=0, most=1)
    for value in (None, "a", True, -0.1, 1.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match=rf"^norm: momentum must be a finite number from 0 to 1, got {value!r}$"):
            require_number("norm", "momentum", value, least=0, most=1)
    with pytest.raises(InputError, match=r"^tiles: rows must be a whole number, got 2\.5$"):
        require_number("tiles", "rows", 2.5, whole=True)
