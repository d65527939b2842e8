"""Norms of blocks, converted by PyTorch's own tools."""

import copy
import os

import pytest
import torch
from torch import distributed, nn

from dmgan_fast.modules import Generator
from dmgan_fast.modules.blocks import BatchNormGLU, BatchNormSkip, share_batch_statistics
from tests.modules.others import CONFIG, inputs


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("training", [False, True])
def test_convert_sync_batchnorm_leaves_a_generator_that_draws_and_learns_the_same(training):
    torch.manual_seed(0)
    model = Generator(CONFIG).train(training)
    plain = copy.deepcopy(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert {type(norm) for norm in norms(converted)} == {BatchNormGLU, BatchNormSkip}
    assert list(converted.state_dict()) == list(plain.state_dict())
    for each in (converted, plain):
        sum(image.square().sum() for image in each(**inputs()).images).backward()
    for one, other in zip(converted.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    for one, other in zip(converted.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)


def test_converted_norms_share_statistics_as_asked(alone):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Generator(CONFIG))
    assert {norm.sharing for norm in norms(model)} == {distributed.group.WORLD}
    group = distributed.new_group([0])
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Generator(CONFIG), group)
    assert {norm.sharing for norm in norms(model)} == {group}
    share_batch_statistics(model, None)
    assert {norm.sharing for norm in norms(model)} == {None}


def test_norms_converted_before_the_processes_join_share_once_they_have():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Generator(CONFIG))
    assert {norm.sharing for norm in norms(model)} == {None}
    os.environ.pop("MASTER_ADDR", None)
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    try:
        assert {norm.sharing for norm in norms(model)} == {distributed.group.WORLD}
    finally:
        distributed.destroy_process_group()
