"""The ops as functions."""

import inspect

import pytest

from dmgan_fast import functional
from dmgan_fast.contract import OPS


def test_every_public_op_is_in_the_contract_and_named_there_as_it_is_called():
    assert set(functional.__all__) == set(OPS)
    for name, op in OPS.items():
        public = inspect.signature(getattr(functional, name)).parameters
        assert [each.name for each in op.read if each.name in public] == [each.name for each in op.read]


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'tiled_glue'"):
        functional.tiled_glue  # noqa: B018
