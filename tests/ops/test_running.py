"""Running statistics of batch norms, one by one and together."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dmgan_fast.modules.blocks import BatchNormGLU
from dmgan_fast.ops.running import update_running, updated_together
from dmgan_fast.reference import BatchNorm

TWO = ["_foreach_mul", "_foreach_lerp_"]


class Operators(TorchDispatchMode):
    """The names of those called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def test_both_running_statistics_are_updated_by_two_operators():
    """Each is a launch on a GPU."""
    running, mean, var = (torch.zeros(4), torch.ones(4)), torch.full((4,), 2.0), torch.full((4,), 3.0)
    with Operators() as operators:
        update_running(BatchNorm(None, None, *running, training=True), mean, var, 10, None)
    assert operators.names == TWO
    torch.testing.assert_close(running, (torch.full((4,), 0.2), torch.full((4,), 0.9 + 0.3 * 10 / 9)))


def test_a_norm_may_keep_one_running_statistic():
    running_mean = torch.zeros(4)
    update_running(BatchNorm(None, None, running_mean, None, training=True), torch.ones(4), torch.ones(4), 10, None)
    torch.testing.assert_close(running_mean, torch.full((4,), 0.1))


def norms_of(channels=(4, 6), momentum=(0.1, 0.1)):
    return [BatchNormGLU(size, momentum=each) for size, each in zip(channels, momentum, strict=True)]


def inputs_of(norms):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(3, norm.num_features, 2, 5, generator=draw) for norm in norms]


def buffers_after(norms, together, rounds=1):
    inputs = inputs_of(norms)
    for _ in range(rounds):
        if together:
            with updated_together():
                for norm, x in zip(norms, inputs, strict=True):
                    norm(x)
        else:
            for norm, x in zip(norms, inputs, strict=True):
                norm(x)
    return [buffer.clone() for norm in norms for buffer in norm.buffers()]


@pytest.mark.parametrize("momentum", [(0.1, 0.1), (0.1, 0.3), (0.1, None)])
def test_statistics_updated_together_have_the_bits_of_those_updated_alone(momentum):
    alone, together = (buffers_after(norms_of(momentum=momentum), together, 2) for together in (False, True))
    assert all(map(torch.equal, alone, together))


def test_norms_together_take_as_few_operators_as_one():
    """And their counters of batches one more."""
    norms = norms_of()
    with Operators() as operators, updated_together():
        for norm, x in zip(norms, inputs_of(norms), strict=True):
            norm(x)
        operators.names.clear()
    assert operators.names == [*TWO, "_foreach_add_"]


def test_a_norm_that_runs_twice_counts_both_batches():
    (norm,), (alone,) = norms_of((4,), (0.1,)), norms_of((4,), (0.1,))
    (x,) = inputs_of([norm])
    with updated_together():
        norm(x)
        norm(2 * x)
    alone(x)
    alone(2 * x)
    assert all(map(torch.equal, norm.buffers(), alone.buffers()))


def test_a_forward_that_fails_updates_nothing():
    (norm,) = norms_of((4,), (0.1,))
    before = [buffer.clone() for buffer in norm.buffers()]

    def fail():
        with updated_together():
            norm(inputs_of([norm])[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(map(torch.equal, norm.buffers(), before))
