"""Errors that a user can act on."""

import inspect

import pytest

from dmgan_fast import errors
from dmgan_fast.errors import DMGANError, InputError, require


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
